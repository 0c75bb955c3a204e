from pipeline.data.samples import Entry
from pipeline.evaluation import breakdown


def entry(sample_id: str, group: str) -> Entry:
    return Entry(sample_id, "train", group, "", "")


def test_views_are_the_digits_after_the_car() -> None:
    rows = [entry("0cdf5b5d0ce1_01", "0cdf5b5d0ce1"), entry("fff_16", "fff")]
    assert breakdown.views(rows) == ["01", "16"]


def test_a_data_set_named_otherwise_has_no_views() -> None:
    slices = [entry("patient_1", "patient"), entry("patient_12", "patient")]
    assert breakdown.views(slices) == ["", ""]
    assert breakdown.views([entry("image_01", "other")]) == [""]
