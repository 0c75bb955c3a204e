"""Another data set is one source file and one recipe: those of docs/own-data.md, added and run."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import yaml
from conftest import ROOT, copy_project, tiny_image, tiny_mask, tiny_recipe, write_yaml

PAGE = (ROOT / "docs/own-data.md").read_text()
SOURCE = re.search(r"```python\n(.*?)```", PAGE, re.S)
SECTIONS = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
# In one process, for importing torch takes longer than all the rest.
ALL_STAGES = """
import shlex, yaml
from pipeline.__main__ import main
stages = yaml.safe_load(open("dvc.yaml"))["stages"]
for stage in ("download", "split", "train", "validate", "tune"):
    command = stages[stage]["cmd"].replace("${item.recipe}", "shapes").replace("${item.fold}", "0")
    main(shlex.split(command)[3:])
"""


def write_shapes(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(8):
            mask = tiny_mask(number)
            image = tiny_image(mask, number)[:, :, ::-1]
            for folder, pixels in (("images", image), ("masks", mask * 255)):
                name = f"{folder}/{'abcd'[number // 2]}_{number}.png"
                archive.writestr(name, cv2.imencode(".png", pixels)[1].tobytes())


def test_a_data_set_is_one_source_and_one_recipe(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    write_shapes(tmp_path / "archives/datasets/me/shapes/shapes.zip")
    assert SOURCE and SECTIONS
    added = {project / "pipeline/sources/shapes.py", project / "recipes/shapes.yaml"}
    assert not any(path.exists() for path in added), "the page's names are taken"
    (project / "pipeline/sources/shapes.py").write_text(SOURCE[1])
    recipe = tiny_recipe() | yaml.safe_load(SECTIONS[1])
    write_yaml(project / "recipes/shapes.yaml", recipe)
    write_yaml(project / "params.yaml", {"recipes": ["shapes"], "blends": [], "folds": [0]})

    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PIPELINE_DATA"] = str(tmp_path / "archives")

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run(sys.executable, "-c", ALL_STAGES)
    assert "8 training images of 4 groups in folds of [4, 4]; 0 test images" in said
    metrics = json.loads((project / "eval/shapes/metrics.json").read_text())
    assert metrics["images"] == 4 and metrics["groups"] == 2
    # The graph as it stands knows the source: `split` depends on the whole folder.
    run(sys.executable, "-m", "pytest", "-q", "-k", "imports_what", "tests/test_structure.py")
