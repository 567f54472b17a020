#!/usr/bin/env bash
# Debian packages that some tests use; where they cannot be had, those tests are skipped and say why. Never fails.
set -uo pipefail

packages=(slurm-wlm munge slurmdbd mariadb-server chromium zsh fish)

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not root on Debian: the tests that need ${packages[*]} are skipped where these are missing"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    apt=(timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
    "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null ||
        echo "could not install ${missing[*]}: the tests that need them are skipped"
fi
exit 0
