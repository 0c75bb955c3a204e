import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.samples import NO_FOLD, Sample
from pipeline.masks import rle
from pipeline.masks.submission import Note
from pipeline.report import sanity
from pipeline.support.errors import UserError

HEIGHT, WIDTH = 100, 100


def row(car: str, view: int, share: float = 0.0) -> Sample:
    split, fold = ("train", 0) if share else ("test", NO_FOLD)
    name = f"{car}_{view:02d}"
    return Sample(name, split, car, f"z.zip!{name}.jpg", "", fold, HEIGHT, WIDTH, share)


def training() -> list[Sample]:
    """View 1 covers 10 % within a few per cent, view 2 covers 30 %."""
    spread = np.linspace(0.97, 1.03, 21)
    return [
        row(f"t{i}", view, share * factor)
        for view, share in ((1, 0.1), (2, 0.3))
        for i, factor in enumerate(spread)
    ]


def mask(rows: int, specks: int = 0) -> str:
    """Full rows at the top, and single pixels in the bottom row."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[:rows] = True
    pixels[-1, : 2 * specks : 2] = True
    return rle.encode(pixels)


def examined(
    texts: dict[str, str], notes: dict[str, Note] | None = None
) -> dict[str, tuple[str, ...]]:
    """The reasons by image, the gravest first."""
    test = [row(*name.removesuffix(".jpg").split("_")[:1], int(name[-6:-4])) for name in texts]
    notes = {name: Note(name, 0, 0.0, "") for name in texts} | (notes or {})
    expected = sanity.usual(training(), most_parts=3)
    findings, _ = sanity.examine(texts.items(), test, notes, expected)
    return {one.row.sample_id: tuple(reason.kind for reason in one.reasons) for one in findings}


def test_what_is_usual_is_not_listed() -> None:
    assert examined({"a_01.jpg": mask(10), "a_02.jpg": mask(30), "b_02.jpg": mask(31, 2)}) == {}


def test_an_area_is_judged_by_its_view() -> None:
    assert examined({"a_01.jpg": mask(30), "a_02.jpg": mask(10), "b_01.jpg": mask(10)}) == {
        "a_01": ("area",),
        "a_02": ("area",),
    }


def test_every_kind_is_found_and_the_gravest_comes_first() -> None:
    texts = {
        "a_01.jpg": mask(10, specks=3),
        "b_01.jpg": mask(100),
        "c_01.jpg": "",
        "d_01.jpg": "",
        "e_01.jpg": mask(10),
        "f_01.jpg": mask(10),
        "g_01.jpg": mask(25, specks=9),
    }
    notes = {
        "d_01.jpg": Note("d_01.jpg", 0, 0.0, "cut short"),
        "e_01.jpg": Note("e_01.jpg", 1000, 0.1, ""),
        "f_01.jpg": Note("f_01.jpg", 1000, 0.2, ""),
    }
    assert list(examined(texts, notes).items()) == [
        ("d_01", ("unreadable",)),
        ("c_01", ("empty",)),
        ("b_01", ("full",)),
        ("g_01", ("area", "parts")),
        ("a_01", ("parts",)),
        ("f_01", ("folds",)),
        ("e_01", ("folds",)),
    ]


def test_disputed_is_what_stands_out_and_nothing_need_be() -> None:
    names = [f"c{i}_01.jpg" for i in range(40)]
    even = {name: Note(name, 1000, 0.01 + i / 2000, "") for i, name in enumerate(names)}
    assert examined(dict.fromkeys(names, mask(10)), even) == {}, "somebody is always the last"
    one = even | {"c7_01.jpg": Note("c7_01.jpg", 1000, 0.4, "")}
    assert examined(dict.fromkeys(names, mask(10)), one) == {"c7_01": ("folds",)}
    nowhere = {
        name: Note(name, 1000, 0.0, "") for name in names
    }  # one network has nobody to contradict
    assert examined(dict.fromkeys(names, mask(10)), nowhere) == {}


def test_deviations_are_from_the_median_of_the_own_group() -> None:
    values = np.array([1.0, 2.0, 3.0, 101.0, 102.0, 103.0, 203.0])
    groups = np.array([0, 0, 0, 1, 1, 1, 1])
    away = sanity.deviations(values, groups, least=0.1)
    assert away[:3] == pytest.approx([-1 / 1.4826, 0, 1 / 1.4826])
    assert away[6] > 60 and abs(away[3]) < 2
    assert sanity.deviations(np.array([5.0, 5.0, 5.1]), np.zeros(3), 0.1)[2] == pytest.approx(1)


def test_views_are_compared() -> None:
    test = [row(f"x{i}", view) for view in (1, 2) for i in range(20)]
    shares = {one.sample_id: 0.1 + 0.0001 * i for i, one in enumerate(test)}  # view 2 is small
    first, second = sanity.compare_views(training(), test, shares)
    assert (first.view, second.view) == ("01", "02")
    assert abs(first.difference) < 3 and second.difference < -10
    assert second.training == pytest.approx(0.3) and second.test == pytest.approx(0.103, abs=1e-3)


def test_every_kind_has_its_turn() -> None:
    texts = {f"e{i}_01.jpg": "" for i in range(9)} | {"p_01.jpg": mask(10, specks=5)}
    test = [row(name.split("_")[0], 1) for name in texts]
    notes = {name: Note(name, 0, 0.0, "") for name in texts}
    usual = sanity.usual(training(), most_parts=3)
    findings, shares = sanity.examine(texts.items(), test, notes, usual)
    assert len(findings) == 10 and shares["p_01"] == pytest.approx(0.1005)
    chosen = sanity.in_turn(findings, 3)
    assert [one.reasons[0].kind for one in chosen] == ["empty", "empty", "parts"]


def test_notes_are_read_and_must_fit(tmp_path: Path) -> None:
    path = tmp_path / "masks.csv"
    path.write_text('img,area,disagreement,error\na.jpg,12,0.25,\nb.jpg,0,0.0,"x, y"\n')
    assert sanity.read_notes(path) == {
        "a.jpg": Note("a.jpg", 12, 0.25, ""),
        "b.jpg": Note("b.jpg", 0, 0.0, "x, y"),
    }
    for wrong in ("img,error\n", "img,area,disagreement,error\na.jpg,many,0,\n"):
        path.write_text(wrong)
        with pytest.raises(UserError, match=r"masks\.csv: .*run the encode stage"):
            sanity.read_notes(path)
    with pytest.raises(UserError, match=r"no row 'a_01\.jpg'"):
        sanity.examine([("a_01.jpg", "")], [row("a", 1)], {}, sanity.usual(training(), 1))


def test_a_set_without_views_is_judged_as_a_whole() -> None:
    rows = [
        Sample(f"scan{i}", "train", f"p{i}", "i", "", 0, HEIGHT, WIDTH, 0.1 + i / 1000)
        for i in range(20)
    ]
    usual = sanity.usual(rows, 3)
    assert list(usual.median) == [""]
    test = [Sample("new", "test", "q", "z.zip!new.jpg", "", NO_FOLD, HEIGHT, WIDTH, 0.0)]
    notes = {"new.jpg": Note("new.jpg", 0, 0.0, "")}
    findings, shares = sanity.examine([("new.jpg", mask(90))], test, notes, usual)
    assert "of the training masks" in findings[0].reasons[0].text
    (one,) = sanity.compare_views(rows, test, shares)
    assert (one.view, one.test, one.difference) == ("", 0.9, 0.0), "one image has no spread"


def test_views_that_training_does_not_have_are_judged_as_a_whole() -> None:
    """A split by image makes each training image its own group, and so without a view."""
    seen = [one for one in training() if one.sample_id.endswith("01")]  # 10 % of each
    without = [dataclasses.replace(one, group=one.sample_id) for one in seen]
    test = [row("a", 1), row("a", 2)]
    notes = {f"{one.sample_id}.jpg": Note(one.sample_id, 0, 0.0, "") for one in test}
    rows = [(f"{one.sample_id}.jpg", mask(90)) for one in test]
    findings, shares = sanity.examine(rows, test, notes, sanity.usual(without, 1))
    assert [one.reasons[0].kind for one in findings] == ["area", "area"]
    [whole] = sanity.compare_views(without, test, shares)
    assert whole.view == "" and whole.test > 0.8
