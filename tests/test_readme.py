"""What the README shows runs as written."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)
        ran.append(names)
    train, shrink, swept, scale = ran
    assert len(swept["found"].rows) == 3 * 2 * 2 and (tmp_path / "runs/my-sweep/rows.csv").exists()
    assert set(train["params"]) == set(scale["params"]) == {"dense1", "dense2"}
    assert shrink["small"].params["conv2"]["kernel"].shape == (3, 3, 8, 16)


def test_ci_runs_the_readmes_test_command():
    command = re.search(r"&& \.venv/bin/(python -m pytest.*)", README).group(1)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f'"$venv/bin/python" -m {command.removeprefix("python -m ")}' in script


def test_nothing_is_left_to_fill_in():
    assert "{{" not in README and "@@" not in README
