from pathlib import Path

import pytest

from peft_vision.core.config import ConfigError
from peft_vision.data.domainnet import SENTRY40
from peft_vision.ood.match import matched
from shift_miniatures import DOMAINNET, domainnet, listing, make_ood, shown

MINI = "txt/{domain}_{split}_mini.txt"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return domainnet(tmp_path_factory.mktemp("sets") / "domainnet", "real", "painting", "clipart")


def test_each_domain_is_a_shift_of_its_test_pictures(published: Path):
    ood = make_ood("domainnet", path=str(published))
    ood.check()
    shifts = ood.open()
    assert list(shifts) == ["real", "painting", "clipart"]
    for domain, shift in shifts.items():
        assert len(shift.labelled) == len(DOMAINNET)
        assert all(path.startswith(f"{domain}/") for path in shift.labelled.pictures.paths)


def test_a_domain_may_give_its_training_pictures(published: Path):
    shift = make_ood("domainnet", path=str(published), split="train").open()["real"]
    assert len(shift.labelled) == 2 * len(DOMAINNET)


@pytest.mark.parametrize("lists", ["{domain}_{split}.txt", MINI])
@pytest.mark.parametrize("which", ["all", "sentry40"])
def test_a_picture_lands_on_its_class_in_the_run_whatever_the_lists_number_it(published: Path, lists: str, which: str):
    ood = make_ood("domainnet", path=str(published), lists=lists, classes=which)
    classes = tuple(reversed(DOMAINNET))
    for domain, shift in ood.open().items():
        found = matched(shift, ood, classes, where=f"ood.domainnet.{domain}").labelled
        assert [classes[label] for label in found.labels.tolist()] == [DOMAINNET[place] for place in shown(found)]
        assert len(found) == (40 if which == "sentry40" or lists == MINI else 45)


def test_a_run_of_forty_classes_is_met_by_the_forty_of_full_lists(published: Path):
    ood = make_ood("domainnet", path=str(published), classes="sentry40")
    found = matched(ood.open()["real"], ood, SENTRY40, where="ood.domainnet")
    assert (found.missing, found.dropped) == ((), ())
    assert sorted(found.labelled.labels.tolist()) == list(range(40))


def test_a_class_that_a_domain_lacks_is_missing_there_only(published: Path):
    ood = make_ood("domainnet", path=str(published), split="train")
    shifts = ood.open()
    assert matched(shifts["painting"], ood, DOMAINNET, where="ood.domainnet").missing == ("t-shirt",)
    assert matched(shifts["real"], ood, DOMAINNET, where="ood.domainnet").missing == ()


def test_lists_of_different_domains_must_agree(tmp_path: Path):
    root = domainnet(tmp_path / "domainnet", "real", "clipart")
    listing(root / "clipart_test.txt", ["clipart/angel/clipart_001_000001.jpg 0"])
    with pytest.raises(ConfigError) as error:
        make_ood("domainnet", path=str(root), domains=["real", "clipart"]).open()
    reason = f"line 1 pairs class 'angel' with label 0, another line {DOMAINNET[0]!r} with 0"
    assert str(error.value) == f"lists: {root}/clipart_test.txt {reason}"


def test_a_domain_that_is_not_there_is_refused_before_any_list_is_read(published: Path):
    with pytest.raises(
        ConfigError,
        match=rf"^path: {published} lacks 1 of 1 parts of DomainNet's quickdraw: quickdraw\n.*quickdraw.zip \(0.4 GB\)",
    ):
        make_ood("domainnet", path=str(published), domains=["real", "quickdraw"]).check()


def test_a_list_that_is_not_there_is_refused(published: Path):
    with pytest.raises(
        ConfigError, match=rf"^lists: {published} lacks 1 of 1 parts of DomainNet's real: txt/real_test.txt\n"
    ):
        make_ood("domainnet", path=str(published), lists="txt/{domain}_{split}.txt").check()


def test_a_list_without_any_of_the_forty_classes_is_refused(tmp_path: Path):
    root = domainnet(tmp_path / "domainnet", "real")
    listing(root / "real_test.txt", ["real/zebra/real_001_000001.jpg 344"])
    with pytest.raises(ConfigError, match=r"lists: .*real_test.txt has no picture of the 40 classes"):
        make_ood("domainnet", path=str(root), domains=["real"], classes="sentry40").open()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"domains": ["real", "photo"]}, "ood.domainnet.domains.1: got 'photo', should be 'clipart', 'infograph'"),
        ({"domains": []}, "ood.domainnet.domains: got"),
        ({"split": "val"}, "ood.domainnet.split: got 'val', should be 'train' or 'test'"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict, complaint: str):
    with pytest.raises(ConfigError) as error:
        make_ood("domainnet", **values)
    assert complaint in str(error.value)


def test_a_pattern_must_tell_domain_and_split(published: Path):
    with pytest.raises(ConfigError, match=r"^lists: got 'real.txt', must hold \{domain\} and \{split\}"):
        make_ood("domainnet", path=str(published), lists="real.txt").check()
