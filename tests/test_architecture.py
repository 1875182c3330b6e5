"""Imports run one way, and the environment files agree."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("calib", "pipeline", "train")
LIGHT = {
    "calibration.label_choice",
    "cli",
    "run_file",
    "datasets",
    "devices",
    "digests",
    "errors",
    "files",
    "folder",
    "images",
    "lock",
    "overrides",
    "palette",
    "pretrained",
    "progress",
    "receipt",
    "record",
    "resample",
    "run",
    "settings",
    "store",
    "tiles",
    "workflow",
    "yaml_text",
}


def own_imports(path: Path) -> set[str]:
    """Modules of our packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" if node.module in PACKAGES else node.module for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


@functools.cache
def imports_of(folder: str) -> dict[str, set[str]]:
    return {str(path.relative_to(ROOT)): own_imports(path) for path in (ROOT / folder).rglob("*.py")}


def test_calib_imports_nothing_of_ours():
    assert {name for found in imports_of("calib").values() for name in found if not name.startswith("calib")} == set()


def test_seem_imports_nothing_of_ours():
    imported = {name for found in imports_of("pipeline/seem").values() for name in found}
    assert imported
    assert all(name.startswith("pipeline.seem.") for name in imported)


def test_train_imports_only_the_light_modules_of_pipeline_and_the_method():
    imported = {name for found in imports_of("train").values() for name in found if not name.startswith("train")}
    assert imported
    assert {name.split(".")[0] for name in imported} == {"calib", "pipeline"}
    light = tuple(f"pipeline.{name}" for name in LIGHT)
    assert [name for name in imported if name.startswith("pipeline.") and not name.startswith(light)] == []


def test_nobody_imports_train_or_a_stage():
    for path, found in imports_of("pipeline").items():
        assert not {name for name in found if name.startswith("train")}, path
        if path != "pipeline/__main__.py":
            assert not {name for name in found if name.startswith("pipeline.stages")}, path


def test_the_light_modules_stay_light():
    modules = ", ".join(f"pipeline.{name}" for name in sorted(LIGHT))
    code = (
        f"import sys, {modules}; print([m for m in ('torch', 'dask', 'snakemake', 'onnxruntime') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert printed.stdout.strip() == "[]"


def folders_of_the_tree() -> set[str]:
    """Folders that the tree in docs/architecture.md names, from its indentation."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    (tree,) = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    parents: list[str] = []
    found = set()
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\w+)/ ", line).groups()
        parents[len(indent) // 2 :] = [name]
        found.add("/".join(parents))
    return found


def test_the_tree_in_the_docs_is_the_tree():
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], check=True, capture_output=True, text=True, cwd=ROOT)
    folders = {str(parent) for name in tracked.stdout.split() for parent in Path(name).parents} - {"."}
    assert folders_of_the_tree() == folders


def test_every_promise_is_checked_by_tests_that_exist():
    rows = re.findall(r"^\| .*? \| (`.*) \|$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for name, kind in re.findall(r"`(tests/\S+?\.py)(?: (\w+))?`", row):
            assert (ROOT / name).is_file(), name
            assert not kind or (ROOT / f"tests/support/campaigns/{kind}.py").is_file(), kind


def test_packages_form_no_circle():
    # a package is a folder of modules; the modules at the top of pipeline/ and train/ count one by one
    def package(module: str) -> str:
        top, _, rest = module.partition(".")
        is_folder = (ROOT / top / rest.partition(".")[0]).is_dir()
        return top if top == "calib" else f"{top}.{rest.partition('.')[0]}" if is_folder or rest else module

    arrows: dict[str, set[str]] = {}
    for folder in PACKAGES:
        for path, found in imports_of(folder).items():
            source = package(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
            arrows.setdefault(source, set()).update(target for target in map(package, found) if target != source)
    order = graphlib.TopologicalSorter(arrows)
    order.prepare()  # CycleError names the circle


@functools.cache
def names_of(module: str) -> set[str]:
    """Names that a module of ours defines or imports, and the modules in a package."""
    path = ROOT / module.replace(".", "/")
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    found = {child.stem for child in path.glob("*.py")} if path.is_dir() else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_benchmarks_and_scripts_import_names_that_exist():
    # nothing else runs most of them
    for path in (*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                assert {alias.name for alias in node.names} <= names_of(node.module), f"{path}, line {node.lineno}"


def package_names(requirements):
    return {re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_environment_and_pyproject_name_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip[0] == "-c constraints.txt"
    assert pip[-1] == "-e ."
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    assert package_names(pip[1:-1]) == package_names(wanted)
    assert package_names(conda) == {"python", "pip"}
    assert f"python={project['requires-python'].removeprefix('>=')}" in conda


def test_constraints_pin_what_is_required_and_what_is_installed():
    from importlib.metadata import version

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package_names(project["dependencies"]) <= package_names(pins)
    if sys.version_info[:2] == (3, 11):
        assert {name: version(name).split("+")[0] for name in pins} == pins


def test_constraints_pin_everything_that_is_installed_with_us():
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins, seen, todo = package_names(lines), set(), [("conformalsam", ("dev",))]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needed = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue  # of another platform
        for one in needed:
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                todo.append((one.name.lower().replace("_", "-"), tuple(sorted(one.extras))))
    installed = {name for name, _ in seen} - {"conformalsam", "pip", "setuptools", "wheel", "uv"}
    assert len(installed) > 100
    unpinned = {name for name in installed - pins if is_installed(name)}
    assert {
        name for name in unpinned if not name.startswith(("nvidia-", "cuda-", "triton"))
    } == set()  # torch pins them


def is_installed(name):
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def test_torchvision_is_absent():
    # next to a CPU build of torch its mere presence breaks the import of transformers' models
    from importlib.util import find_spec

    assert find_spec("torchvision") is None


def test_code_and_pages_use_none_of_the_retired_words():
    # the glossary in CONTRIBUTING.md names the words to use instead
    retired = re.compile(r"\b(anew|mend(s|ed|ing)?|vouch(es|ed)?|labelled|labelling|for want of)\b", re.IGNORECASE)
    tracked = subprocess.run(["git", "ls-files", "*.py", "*.md"], check=True, capture_output=True, text=True, cwd=ROOT)
    lines = [
        f"{name}: {line.strip()}"
        for name in tracked.stdout.splitlines()
        if name not in ("CHANGELOG.md", "tests/test_architecture.py")
        for line in (ROOT / name).read_text().splitlines()
        if retired.search(line) and not (name == "CONTRIBUTING.md" and line.startswith("|"))
    ]
    assert lines == []
