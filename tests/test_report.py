"""The report stage on a run with 128 images, and its page in a real browser."""

import contextlib
import csv
import gzip
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import (
    TEST_CARS,
    VIEWS,
    gif,
    jpeg,
    tiny_recipe,
    write_tiny_archives,
    write_yaml,
)
from pages import Opened, looked_at
from PIL import Image
from playwright.sync_api import Browser

from pipeline.__main__ import main
from pipeline.data import samples
from pipeline.data.rows import HEADER
from pipeline.data.samples import Entry, Sample
from pipeline.evaluation import out_of_fold
from pipeline.evaluation.out_of_fold import Judged, Measures
from pipeline.levels import kept, scale
from pipeline.masks import rle
from pipeline.metrics.dice import count_levels, dice_by_threshold
from pipeline.paths import Paths
from pipeline.recipe.schema import CleanUp, Tune
from pipeline.report import gallery, results
from pipeline.tune import stage as tune
from sample import archives

REAL = Path(
    os.environ.get("PIPELINE_DATA", "/nowhere"), "competitions/carvana-image-masking-challenge"
)
CARS, FOLDS = 8, 2
CARDS = 56  # of 128 images, where they fit


# --- a run: 8 cars of 16 views in two folds, eight photographs, four test images


def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight images of the built-in sample and their masks, at half their size."""
    files = archives._draw_views(seed=1, index=0, first=1)
    return [(decoded(file.image)[::2, ::2], decoded(file.mask)[::2, ::2] > 0) for file in files]


def photographed() -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight real images and their masks."""
    with (
        zipfile.ZipFile(REAL / "train.zip") as images,
        zipfile.ZipFile(REAL / "train_masks.zip") as masks,
    ):
        stems = [Path(name).stem for name in images.namelist() if name.endswith(".jpg")][:8]
        return [
            (
                decoded(images.read(f"train/{stem}.jpg")),
                decoded(masks.read(f"train_masks/{stem}_mask.gif")) > 0,
            )
            for stem in stems
        ]


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def shifted(mask: np.ndarray, by: int) -> np.ndarray:
    """A prediction that is wrong along the edges."""
    return np.roll(mask, by, axis=1)


def rows_of(table: list[Entry], size: tuple[int, int]) -> list[Sample]:
    """Training rows with folds and shares, test rows without."""
    return [
        Sample(
            entry.sample_id, entry.split, entry.group, entry.image, entry.mask,
            int(entry.group) % FOLDS if entry.split == "train" else samples.NO_FOLD, *size,
            (0.2 + int(entry.sample_id[-2:]) / 100) if entry.split == "train" else 0.0,
        )
        for entry in table
    ]  # fmt: skip


def write_run(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """All that the report stage reads, as the other stages write it."""
    write_tiny_archives(folder / "raw")
    recipe = tiny_recipe()
    write_yaml(folder / "recipes/tiny.yaml", recipe)
    write_yaml(folder / "params.yaml", {"recipes": ["tiny"], "folds": list(range(FOLDS))})
    training = [
        Entry(
            f"{car}_{view:02d}", "train", str(car),
            f"pictures.zip!{(car + view) % len(pairs)}.jpg",
            f"pictures.zip!{(car + view) % len(pairs)}.gif",
        )
        for car in range(CARS)
        for view in range(1, 17)
    ]  # fmt: skip
    test = [
        Entry(f"{car}_{view}", "test", car, f"test.zip!test/{car}_{view}.jpg", "")
        for car in TEST_CARS
        for view in VIEWS
    ]
    height, width = pairs[0][1].shape
    rows = sorted(rows_of(training, (height, width)), key=lambda row: row.fold)
    samples.write(folder / "samples.csv", rows + rows_of(test, (64, 96)))
    with zipfile.ZipFile(folder / "raw/pictures.zip", "w") as archive:
        for index, (image, mask) in enumerate(pairs):
            archive.writestr(f"{index}.jpg", jpeg(image))
            archive.writestr(f"{index}.gif", gif(mask.astype(np.uint8)))
    write_out_of_fold(folder, rows, pairs)
    for fold in range(FOLDS):
        runs = folder / f"runs/fold{fold}"
        runs.mkdir(parents=True)
        history = [  # every second epoch was scored
            f"{k},{1 / k},{(1 - 0.3 / k) if k % 2 else ''},{1.1 / k if k % 2 else ''},0.001,12.5"
            for k in range(1, 6)
        ]
        lines = ["epoch,loss,dice,held_out_loss,learning_rate,images_per_second", *history]
        (runs / "history.csv").write_text("\n".join(lines))
        (runs / "metrics.json").write_text(json.dumps({"dice": 0.94, "epoch": 5, "loss": 0.2}))
    write_submission(folder / "submission")


def write_out_of_fold(
    folder: Path, rows: list[Sample], pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    generator = np.random.default_rng(0)
    judged, levels = [], {}
    for row in rows:
        index = int(Path(row.image.partition("!")[2]).stem)
        truth = pairs[index][1]
        small = cv2.resize(
            shifted(truth, 3 * index).astype(np.float32), (240, 160), interpolation=cv2.INTER_AREA
        )
        noise = generator.normal(0, 4 + int(row.group), small.shape)
        levels[row.sample_id] = np.clip(40 + 170 * small + noise, 0, 255).astype(np.uint8)
        counts = count_levels(scale.full_resolution(levels[row.sample_id], row.size), truth)
        half = float(dice_by_threshold(counts[None])[0, scale.HALF])
        measures = Measures(row.sample_id, half, 900, 1000, int(row.group) + 1, 0.05, 1.5)
        judged.append(Judged(row, counts, half, measures))
    paths = Paths.of(
        "tiny",
        {
            "samples": folder / "samples.csv",
            "oof": folder / "oof",
            "evaluation": folder / "eval",
        },
    )
    for fold in range(FOLDS):
        mine = [one for one in judged if one.row.fold == fold]
        names = [one.row.sample_id for one in mine]
        kept_images = (kept.Image.of(name, levels[name], 0.0, "") for name in names)
        kept.write(paths.oof_levels(fold), "a key", kept_images, len(mine))
        out_of_fold.write(paths, fold, mine)
    off = {"keep_largest": False, "drop_specks": "none", "close": "none", "fill_holes": "none"}
    settings = Tune(threshold="auto", clean_up=CleanUp(**off), bootstrap=100, seed=0)
    found = out_of_fold.read(paths, range(FOLDS))
    level = tune.choose_level(found, settings)
    tune.write(paths, tune.score_masks(found, settings, level), True)


def write_submission(folder: Path) -> None:
    """One usual mask, an empty one, one in many parts, one that was not readable."""
    usual = np.zeros((64, 96), bool)
    usual[10:40, 20:70] = True
    specks = usual.copy()
    specks[44:60:4, 4:90:4] = True
    names = [f"{car}_{view}.jpg" for car in TEST_CARS for view in VIEWS]
    masks = [usual, np.zeros_like(usual), specks, np.zeros_like(usual)]
    rows = [f"{name},{rle.encode(mask)}\n" for name, mask in zip(names, masks, strict=True)]
    folder.mkdir()
    (folder / "submit.csv.gz").write_bytes(gzip.compress(f"img,rle_mask\n{''.join(rows)}".encode()))
    with (folder / "masks.csv").open("w", newline="") as stream:
        writer_of_notes = csv.writer(stream, lineterminator="\n")
        writer_of_notes.writerow(("img", "area", "disagreement", "error"))
        for name, mask, disagreement in zip(names, masks, (0.031, 0, 0, 0), strict=True):
            error = "test.zip!x.jpg: cut short, <b>indeed</b>" if name == names[3] else ""
            writer_of_notes.writerow((name, mask.sum(), disagreement, error))


def run_stage(folder: Path, *more: str, images: int = 4) -> None:
    """Run it in this process, with as many images in the gallery, which take the most time."""
    arguments = ["report", "tiny", *more]
    for place, name in {
        "raw": "raw", "samples": "samples.csv", "runs": "runs", "oof": "oof",
        "evaluation": "eval", "submission": "submission",
    }.items():  # fmt: skip
        arguments += ["--at", f"{place}={name}"]
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "_IMAGES", images)
        main(arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_run(folder, drawn())
    run_stage(folder, images=CARDS)
    return folder


# --- the stage


def test_findings_are_listed(finished: Path) -> None:
    with (finished / "eval/sanity.csv").open() as stream:
        found = {row["img"]: row for row in csv.DictReader(stream)}
    names = [f"{car}_{view}.jpg" for car in TEST_CARS for view in VIEWS]
    assert list(found)[:2] == [names[3], names[1]], "the gravest first"
    assert "unreadable" in found[names[3]]["reasons"]
    assert found[names[1]]["reasons"] == "the mask is empty"
    assert "parts, no out-of-fold mask has more than 8" in found[names[2]]["reasons"]
    assert "disagree on 3.10% of the pixels, on 0.00% of the median" in found[names[0]]["reasons"]


def test_the_page_is_one_small_file(finished: Path) -> None:
    text = (finished / "eval/report.html").read_text()
    assert text.count('id="image-') == CARDS
    assert len(text.encode()) < 5e6
    outside = [part for part in text.split('"') if part.startswith(("http:", "https:", "//"))]
    assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_text_is_escaped(finished: Path) -> None:
    text = (finished / "eval/report.html").read_text()
    assert "<b>indeed</b>" not in text and "&lt;b&gt;indeed" in text


def test_equal_results_make_equal_pages(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    pages = []
    for _ in range(2):
        run_stage(tmp_path / "run")
        text = (tmp_path / "run/eval/report.html").read_text()
        pages.append([line for line in text.splitlines() if "UTC" not in line])
    assert pages[0] == pages[1]


def test_a_data_set_without_test_images_says_so(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    rows = samples.read(tmp_path / "run/samples.csv")
    samples.write(tmp_path / "run/samples.csv", [row for row in rows if row.split == "train"])
    (tmp_path / "run/submission/submit.csv.gz").unlink()
    (tmp_path / "run/submission/masks.csv").write_text("img,area,disagreement,error\n")
    run_stage(tmp_path / "run")
    text = (tmp_path / "run/eval/report.html").read_text()
    assert "no test images, so there is no submission" in text and "To look at" not in text
    assert (tmp_path / "run/eval/sanity.csv").read_text().count("\n") == 1


def test_any_test_image_can_be_asked_for(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    names = [f"{car}_{view}" for car in TEST_CARS for view in VIEWS]
    run_stage(tmp_path / "run", "--show", f"{names[1]}.jpg", names[0])
    asked = (tmp_path / "run/eval/report.html").read_text().split(">Asked for<")[1]
    asked = asked.split("</ul>\n\n")[0]
    assert asked.index(f"{names[1]}.jpg") < asked.index(f"{names[0]}.jpg")
    with pytest.raises(
        SystemExit, match="--show: found 'nobody', expected .* of the 4 test images"
    ):
        run_stage(tmp_path / "run", "--show", "nobody")


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("submission/masks.csv", "encode"),
        ("eval/views.csv", "tune"),
        ("eval/metrics.json", "tune"),
        ("oof/fold1-levels/chunk-00000.levels", "validate"),
        ("runs/fold0/history.csv", "train"),
    ],
)
def test_missing_inputs_name_the_stage(
    finished: Path, tmp_path: Path, name: str, stage: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(SystemExit, match=f"{Path(name).name}: .*run the {stage} stage"):
        run_stage(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("eval/metrics.json", b"[]", "found list, expected an object; run the tune stage"),
        ("eval/metrics.json", b"{}", "found no dice, "),
        ("runs/fold0/metrics.json", b"3", "found int, expected an object; run the train stage"),
        ("eval/groups.csv", "group\nä\n".encode("latin-1"), "run the tune stage"),
        ("eval/groups.csv", b"group,images\n1,2,3,4\n", "run the tune stage"),
        ("eval/images.csv", b"", "run the tune stage"),
        ("eval/images.csv", b"sample_id\na\n", "found columns sample_id, expected group, view"),
        ("runs/fold1/history.csv", b"\xff\xfee\0", "run the train stage"),
        ("oof/fold0-levels/chunk-00000.levels", b"pipeline levels 1\n", "run the validate stage"),
        ("oof/fold0.npz", b"PK", "run the validate stage"),
    ],
)
def test_what_is_damaged_is_one_line(
    finished: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        run_stage(tmp_path / "run")
    message = str(ended.value.code)
    assert message.startswith("error: ") and "\n" not in message
    assert Path(name).name in message and said in message


def test_names_stay_the_text_they_are(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("group,worst_image,dice\n007,0001,0.5\nNA,null,\n")
    table = results._read_csv(tmp_path / "groups.csv", ("group",), "")
    assert table["group"].tolist() == ["007", "NA"]
    assert table["worst_image"].tolist() == ["0001", "null"]
    assert table["dice"].isna().tolist() == [False, True]


# --- the page in a browser


@pytest.fixture
def opened(browser: Browser, finished: Path) -> Iterator[Opened]:
    opened = Opened(browser, finished / "eval/report.html", 1280, "light")
    yield opened
    opened.context.close()
    assert opened.problems == []


def test_every_picture_is_whole(opened: Opened) -> None:
    images = "images => images.filter(i => i.naturalWidth === 0).length"
    assert opened.page.locator("img").evaluate_all(images) == 0
    assert opened.page.locator(".chart svg").count() == 12
    assert opened.page.evaluate("document.querySelectorAll('[id]').length") == opened.page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    ), "no two elements share a name"


def test_images_are_sorted(opened: Opened) -> None:
    scores = opened.scores()
    assert len(scores) == CARDS and scores == sorted(scores)
    opened.page.select_option("select[name=sort]", "-dice")
    assert opened.scores() == sorted(scores, reverse=True)
    opened.page.select_option("select[name=sort]", "name")
    names = opened.page.locator("#cards > .card").evaluate_all(
        "all => all.map(c => c.dataset.name)"
    )
    assert names == sorted(names)


def test_images_are_filtered(opened: Opened) -> None:
    page, count = opened.page, opened.page.locator("#count")
    page.select_option("select[name=fold]", "1")
    page.select_option("select[name=kind]", "random")
    some = page.locator("#cards > .card:visible")
    assert 0 < some.count() < CARDS
    values = some.evaluate_all("all => all.map(c => c.dataset.fold + c.dataset.kind)")
    assert set(values) == {"1random"}
    assert count.inner_text() == f"{some.count()} images"
    page.fill("input[name=text]", "no such car")
    assert some.count() == 0 and page.locator("#none").is_visible()
    page.click("#reset")
    assert some.count() == CARDS and not page.locator("#none").is_visible()
    page.select_option("select[name=view]", "07")
    assert {name[-2:] for name in some.evaluate_all("all => all.map(c => c.dataset.name)")} == {
        "07"
    }


def test_layers_are_toggled(opened: Opened) -> None:
    for mode in ("prediction", "truth", "difference"):
        opened.page.check(f"input[value={mode}]")
        assert opened.opacity("#cards") == {
            "difference": False, "prediction": False, "truth": False, mode: True,
        }  # fmt: skip
    opened.page.check("input[value=photograph]")
    assert not any(opened.opacity("#cards").values())


def test_an_image_opens_large_and_keys_work(opened: Opened) -> None:
    page = opened.page
    first, second = page.locator("#cards .open").nth(0), page.locator("#cards .open").nth(1)
    first.focus()
    page.keyboard.press("Enter")
    title = page.locator("#large-title")
    assert page.locator("#large").is_visible() and "Dice" in title.inner_text()
    assert page.locator("#large-window img").count() == 4
    shown = title.inner_text()
    page.keyboard.press("ArrowRight")
    name = second.get_attribute("aria-label") or ""
    assert title.inner_text() != shown and title.inner_text().split(":")[0] == name.split(",")[0]
    page.keyboard.press("3")
    assert opened.opacity("#large-whole")["truth"]
    assert page.locator("[data-mode-button=truth]").get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == shown
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()
    assert page.evaluate("document.activeElement.className") == "open", "back where one was"
    page.click("#cards .open >> nth=1")
    page.click("#close")
    assert not page.locator("#large").is_visible()


def test_everything_has_a_name_for_screen_readers(opened: Opened) -> None:
    unnamed = opened.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a, dialog, [role=region]")]
        .filter(e => !(e.innerText?.trim() || e.getAttribute("aria-label") || e.labels?.length
                       || e.getAttribute("aria-labelledby"))).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert opened.page.locator("img:not([alt])").count() == 0
    levels = opened.page.locator("main h1, main h2, main h3").evaluate_all(
        "all => all.map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("width", [360, 400, 768, 1400])
def test_nothing_overlaps_is_cut_or_wider_than_the_screen(
    browser: Browser, finished: Path, width: int
) -> None:
    opened = Opened(browser, finished / "eval/report.html", width, "dark")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(opened.texts()) > 800 and opened.printed_over() == [] and opened.cut_off() == []
    opened.page.click("#cards .open >> nth=0")
    assert opened.page.evaluate("document.querySelector('dialog').scrollWidth") <= width
    opened.context.close()
    assert opened.problems == []


@pytest.mark.parametrize("width", [400, 1400])
def test_tiles_fill_their_box(browser: Browser, finished: Path, width: int) -> None:
    """A tile alone in a row stands beside a block of the separators' grey."""
    opened = Opened(browser, finished / "eval/report.html", width, "light")
    for box in opened.page.locator(".figures").all():
        of_box, of_tiles = box.evaluate(
            """box => { const area = one => one.offsetWidth * one.offsetHeight;
            return [area(box), [...box.children].map(area).reduce((a, b) => a + b)]; }"""
        )
        assert of_tiles > 0.97 * of_box
    opened.context.close()


def test_a_print_is_a_few_pages_of_little(opened: Opened, tmp_path: Path) -> None:
    data = opened.page.pdf(format="A4", prefer_css_page_size=True)
    assert data.count(b"/Type /Page\n") <= 7 and len(data) < 2.5e6
    opened.page.emulate_media(media="print")
    opened.page.set_viewport_size({"width": 700, "height": 1000})
    opened.width = 700
    assert opened.printed_over() == [] and opened.cut_off() == []
    assert opened.page.locator("#cards > .card:visible").count() == 12


def test_a_table_leads_to_the_image(opened: Opened) -> None:
    link = opened.page.locator("table a[href^='#image-']").first
    opened.page.fill("input[name=text]", "no such car")  # a filter is in the way
    link.click()
    title = opened.page.locator("#large-title")
    assert title.is_visible() and title.inner_text().startswith(link.text_content() or "?")


def test_an_image_is_zoomed_and_moved(opened: Opened) -> None:
    page = opened.page
    page.click("#cards .open >> nth=0")
    pane = page.locator("#large-whole")
    box = pane.bounding_box()
    assert box is not None

    def view() -> tuple[float, float, float]:
        values = pane.evaluate("pane => [pane.view.scale, pane.view.x, pane.view.y]")
        drawn = pane.locator("> div").evaluate("one => getComputedStyle(one).transform")
        matrix = [float(value) for value in drawn.removeprefix("matrix(")[:-1].split(",")]
        assert [matrix[0], *matrix[4:]] == pytest.approx(values, abs=1e-2), "what is seen"
        return tuple(values)

    assert view() == (1, 0, 0)
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.wheel(0, -400)
    page.wait_for_function("document.getElementById('large-whole').view.scale > 2")
    scale, x, y = view()
    assert x == pytest.approx((1 - scale) * box["width"] / 4, rel=0.02), "about the pointer"
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4 - 30, box["y"] + box["height"] / 4 - 20)
    page.mouse.up()
    assert view() == pytest.approx((scale, x - 30, y - 20), abs=1)
    page.mouse.down()
    page.mouse.move(box["x"] + 3 * box["width"], box["y"] + 3 * box["height"])
    page.mouse.up()
    assert view() == pytest.approx((scale, 0, 0), abs=1e-6), "no farther than the picture's edge"
    page.keyboard.press("0")
    assert view() == (1, 0, 0)
    page.keyboard.press("+")
    assert view()[0] == pytest.approx(1.5)
    page.keyboard.press("ArrowRight")
    assert view() == (1, 0, 0), "the next image is seen whole"


def test_a_test_image_opens_large(opened: Opened) -> None:
    page = opened.page
    page.click(".tests .open >> nth=0")
    assert page.locator("#large-title").inner_text().endswith(".jpg")
    assert page.locator("#large-whole img").count() == 1
    assert not page.locator("#large-window").is_visible()
    page.keyboard.press("Escape")
    page.click("#cards .open >> nth=0")
    assert page.locator("#large-window").is_visible()


def test_scores_under_masks_are_those_of_the_masks(opened: Opened) -> None:
    """The Dice that a card shows is that of the two masks that it draws, but for shrinking."""
    counted = """async cards => Promise.all(cards.map(async card => {
        const pixels = async (mode) => {
            const image = card.querySelector(`.open .layer.${mode}`);
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            return Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3] > 0);
        };
        const [found, truth] = [await pixels("prediction"), await pixels("truth")];
        const both = found.filter((one, i) => one && truth[i]).length;
        const sum = found.filter(Boolean).length + truth.filter(Boolean).length;
        return [Number(card.dataset.dice), 2 * both / sum, card.innerText];
    }))"""
    cards = opened.page.locator("#cards > .card:nth-child(7n + 1)").evaluate_all(counted)
    assert len(cards) > 6
    for dice, drawn, text in cards:
        assert drawn == pytest.approx(dice, abs=2e-3) and f"{dice:.5f}" in text
    assert "Dice are those of the threshold in use" in opened.page.inner_text("#pictures")


def test_groups_have_names_and_their_table_counts_them(opened: Opened) -> None:
    section = opened.page.locator("section[aria-labelledby=breakdown]")
    chart = section.locator("figure", has_text="By group").inner_text().split()
    assert [name for name in chart if name.isdecimal() and len(name) == 1].count("7") == 1
    assert "All 8 groups" in section.inner_text() and "ten" not in section.inner_text()


def test_nothing_found_is_no_finding(finished: Path, tmp_path: Path) -> None:
    """No heading, tile or number says that something deserves a look when nothing does."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    usual = np.zeros((64, 96), bool)
    usual[10:40, 20:64] = True  # 21.5 %, between the medians of both views
    names = [f"{car}_{view}.jpg" for car in TEST_CARS for view in VIEWS]
    rows = "".join(f"{name},{rle.encode(usual)}\n" for name in names)
    (folder / "submission/submit.csv.gz").write_bytes(gzip.compress(f"{HEADER}\n{rows}".encode()))
    notes = "".join(f"{name},{usual.sum()},0.01,\n" for name in names)
    (folder / "submission/masks.csv").write_text(f"img,area,disagreement,error\n{notes}")
    metrics = json.loads((folder / "eval/metrics.json").read_text())
    none = {"gain": 0.0, "gain_low": 0.0, "gain_high": 0.0, "flatters": True}
    none |= {"chosen_on_held_out": "the epoch", "whole_groups": False}
    (folder / "eval/metrics.json").write_text(json.dumps(metrics | none))
    run_stage(folder)
    text = (folder / "eval/report.html").read_text()
    assert "None of 4 masks is unusual" in text and "<dd>nothing</dd>" in text
    assert text.count("<dd>no difference</dd>") == 1
    assert "This score flatters" in text and "the epoch" in text
    assert "over single images" in text and "Images, not whole groups, were held out" in text
    assert "over cars or other groups" in (finished / "eval/report.html").read_text()
    for wrong in ("deserve", "Unusual masks", "0.000000", "Where it fails", "To look at</h"):
        assert wrong not in text
    assert (folder / "eval/sanity.csv").read_text().count("\n") == 1


def test_what_repairs_gain_is_no_praise_of_the_threshold(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    metrics = json.loads((folder / "eval/metrics.json").read_text())
    repair = {"gain": 0.01, "honest_gain": 0.01, "honest_low": 0.005, "honest_high": 0.02}
    metrics |= {"level": 100, "threshold": 100 / 256, "dice": metrics["dice_at_half"] + 0.01}
    metrics |= {"gain": 0.01, "gain_low": 0.005, "gain_high": 0.02}
    metrics |= {f"threshold_gain{end}": 0.0 for end in ("", "_low", "_high")}
    metrics["repairs"] = {"drop_specks": repair | {"size": 9, "accepted": True}}
    (folder / "eval/metrics.json").write_text(json.dumps(metrics))
    run_stage(folder)
    text = (folder / "eval/report.html").read_text()
    assert "these images do not show that the threshold beats 0.5" in text
    assert f"before repairs; {metrics['dice_at_half']:.5f} at {100 / 256:.4f}" in text
    assert "<dt>Against 0.5, with repairs</dt>" in text


def test_the_theme_is_the_system_s_until_one_is_chosen(browser: Browser, finished: Path) -> None:
    opened = Opened(browser, finished / "eval/report.html", 800, "dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = opened.page.evaluate(paper)
    opened.page.click("#theme")
    light = opened.page.evaluate(paper)
    assert light != dark and opened.page.inner_text("#theme") == "Theme: light"
    opened.page.click("#theme")
    assert opened.page.evaluate(paper) == dark
    opened.page.click("#theme")
    assert opened.page.evaluate(paper) == dark and opened.page.inner_text("#theme").endswith("m")
    opened.context.close()


@pytest.mark.skipif(not REAL.is_dir(), reason="PIPELINE_DATA names no folder with real archives")
def test_a_page_of_100_real_photographs(browser: Browser, tmp_path: Path) -> None:
    write_run(tmp_path, photographed())
    run_stage(tmp_path, images=CARDS)
    text = (tmp_path / "eval/report.html").read_text()
    assert text.count('id="image-') >= 40 and len(text.encode()) < 5e6
    looked_at(browser, tmp_path / "eval/report.html")
