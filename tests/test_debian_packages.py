"""What the Debian packages are made of, without making one: `make hw-sim` and `make arm-vm` make and install them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_deb", ROOT / "packaging/build_deb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_deb"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["device", "coordinator"])
def test_a_package_has_its_scripts_its_program_and_its_own_places(
    builder: ModuleType, name: str, tmp_path: Path
) -> None:
    kind, tree = builder.KINDS[name], tmp_path / "package"
    (tree / kind.site / "edgejoule-1.2.3.dist-info").mkdir(parents=True)
    builder._environment(tree, "1.2.3", "amd64", kind)
    builder._documents(tree, "1.2.3", 1_700_000_000, kind)
    builder._control(tree, "1.2.3", "amd64", kind)
    builder._set_modes_and_times(tree, 1_700_000_000, kind)
    control = (tree / "DEBIAN/control").read_text()
    assert f"Package: {kind.name}\n" in control
    assert "@" not in re.sub(r"<[^>]*>", "", control), "every figure is filled in"
    for script in ("postinst", "prerm", "postrm"):
        path = tree / "DEBIAN" / script
        assert path.stat().st_mode & 0o111
        assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
        # No package takes from another's folder.
        others = {each_kind.home for each_kind in builder.KINDS.values()} - {kind.home}
        assert not any(re.search(rf"/{other}(/|\b(?!-))", path.read_text()) for other in others)
    program = tree / "usr/bin" / kind.program
    assert (program.parent / program.readlink()).resolve() == (tree / kind.home / "bin" / kind.program).resolve()
    assert f"from {kind.module} import main" in (tree / kind.home / "bin" / kind.program).read_text()
    assert (tree / "DEBIAN/conffiles").exists() == (kind.example is not None)


def test_removing_the_coordinator_leaves_the_fleets_keys(builder: ModuleType) -> None:
    text = (builder.KINDS["coordinator"].folder / "postrm").read_text()
    assert "/var/lib" not in "\n".join(line for line in text.splitlines() if not line.startswith("#"))
