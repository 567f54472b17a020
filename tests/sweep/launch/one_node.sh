#!/usr/bin/env bash
# A Slurm of one node, this one, with accounting, for tests: no systemd, no cgroups, nothing outside FOLDER.
#
#   one_node.sh start FOLDER    until the node takes jobs; again: nothing. Exit code 69 and a reason where it cannot be had
#   one_node.sh stop FOLDER
#
# SLURM_CONF=FOLDER/slurm.conf is all that sbatch, squeue and the others have to know.
set -euo pipefail

cannot() {
    echo "no Slurm here: $*" >&2
    exit 69
}

[ $# = 2 ] && [[ "$1" =~ ^(start|stop)$ ]] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64; }
mkdir -p "$2"
folder=$(cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf MYSQL_UNIX_PORT=$folder/db.sock # what slurmdbd's client library connects to

daemons=(munged mariadbd slurmdbd slurmctld slurmd)

pid() { cat "$folder/$1.pid" 2>/dev/null || true; }

alive() { [ -n "$(pid "$1")" ] && kill -0 "$(pid "$1")" 2>/dev/null; }

# start NAME COMMAND...: in the background, without this terminal
start() {
    setsid "${@:2}" </dev/null >>"$folder/$1.out" 2>&1 &
    echo $! >"$folder/$1.pid"
}

# until_true SECONDS NAME COMMAND...: NAME is the daemon that is waited for
until_true() {
    local deadline=$((SECONDS + $1))
    until "${@:3}" >/dev/null 2>&1; do
        alive "$2" || cannot "$2 ended: $(tail -n 3 "$folder/$2.out" "$folder/$2.log" 2>/dev/null)"
        [ $SECONDS -lt $deadline ] || cannot "$2 is not ready after $1 seconds; $folder/$2.log may say why"
        sleep 0.1
    done
}

stop() {
    for name in "${daemons[@]}"; do ! alive "$name" || kill "$(pid "$name")"; done
    for ((tenths = 0; tenths < 150; tenths++)); do
        remaining=()
        for name in "${daemons[@]}"; do ! alive "$name" || remaining+=("$name"); done
        [ ${#remaining[@]} -gt 0 ] || break
        sleep 0.1
    done
    for name in "${daemons[@]}"; do
        ! alive "$name" || kill -9 "$(pid "$name")"
        rm -f "$folder/$name.pid"
    done
}

if [ "$1" = stop ]; then
    stop
    exit
fi

[ "$(id -u)" = 0 ] || cannot "its daemons have to be started as root"
here=$(dirname "${BASH_SOURCE[0]}")
export PATH=$PATH:/usr/sbin:/sbin
needed=(munged munge mariadbd mariadb mariadb-install-db slurmdbd slurmctld slurmd sbatch sacctmgr)
lacks() { for name in "${needed[@]}"; do command -v "$name" >/dev/null || return 0; done; return 1; }
if lacks; then bash "$here/../debian_packages.sh" >&2; fi
! lacks || cannot "the Debian packages slurm-wlm, munge, slurmdbd and mariadb-server are not all installed"

if alive slurmd && sinfo --noheader --format %t 2>/dev/null | grep -qE 'idle|mix|alloc'; then exit; fi
stop
trap '[ $? = 0 ] || stop' EXIT

# ports of its own, so that there may be another one on this machine
port=$(cat "$folder/port" 2>/dev/null || echo $((20000 + RANDOM % 10000)) | tee "$folder/port")
node=$(hostname -s)
socket=$folder/munge.sock
mkdir -p "$folder"/{ctld,d}
cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits until the credentials of its former life have expired: 120 s by default
AuthInfo=socket=$socket,cred_expire=5
StateSaveLocation=$folder/ctld
SlurmdSpoolDir=$folder/d
SlurmctldPidFile=$folder/slurmctld.own.pid
SlurmdPidFile=$folder/slurmd.own.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 2))
AccountingStoragePass=$socket
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
KillWait=5
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$(awk '/MemTotal/ { print int($2 / 2048) }' /proc/meminfo)
PartitionName=debug Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
cat >"$folder/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile=$folder/slurmdbd.log
PidFile=$folder/slurmdbd.own.pid
END
chmod 600 "$folder/slurmdbd.conf"

[ -s "$folder/munge.key" ] || head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"
# --force: it would rather not run as root, nor below a folder that others may write
start munged munged --foreground --force --socket "$socket" --key-file "$folder/munge.key" --log-file "$folder/munged.log" \
    --pid-file "$folder/munged.own.pid" --seed-file "$folder/munge.seed"
[ -d "$folder/db" ] || mariadb-install-db --no-defaults --user=root --datadir="$folder/db" --auth-root-authentication-method=normal \
    --skip-test-db >"$folder/mariadbd.out" 2>&1 || cannot "mariadb-install-db failed; $folder/mariadbd.out says why"
start mariadbd mariadbd --no-defaults --user=root --datadir="$folder/db" --skip-networking --socket="$MYSQL_UNIX_PORT" \
    --pid-file="$folder/mariadbd.own.pid" --innodb-flush-log-at-trx-commit=0
until_true 20 munged munge --socket "$socket" --no-input
until_true 30 mariadbd mariadb --no-defaults --user=root --execute "select 1"
start slurmdbd slurmdbd -D
until_true 30 slurmdbd sacctmgr --noheader list cluster
sacctmgr --immediate add cluster test >/dev/null 2>&1 || true # there from an earlier start
start slurmctld slurmctld -D
until_true 30 slurmctld scontrol ping
start slurmd slurmd -D
until_true 30 slurmd bash -c "sinfo --noheader --format %t | grep -qx idle"
