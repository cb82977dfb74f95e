"""What is cut short on its way to the disk, at each step: an authority, its renewal, the audit log."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.cli import main
from coordinator.trust import signing
from coordinator.trust.audit import FILE, AuditLog
from coordinator.trust.authority import FOLDER, Authority
from coordinator.trust.register import Register
from protos.errors import ConfigError, IntegrityError
from protos.trust.names import PeerName, Role

ROOT = Path(__file__).resolve().parents[3]


class PowerCutError(BaseException):
    """Nothing runs after it."""


def cut(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """After so many files are in their place, the next one does not get there."""
    import protos.atomic

    real, done = protos.atomic.os.replace, [0]

    def replace(source: object, target: object) -> None:
        if done[0] == after:
            raise PowerCutError
        done[0] += 1
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(protos.atomic.os, "replace", replace)


@pytest.mark.parametrize("after", range(9))
def test_an_init_that_was_cut_short_is_gone_on_with(
    after: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", "--state", str(tmp_path), "--name", "lab.example"]
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, after)
        try:
            whole = main(words) == 0
        except PowerCutError:
            whole = False
    # root.key, issuing.key, issuing.pem, root.pem, server.pem, signing.key, signers, admin.json
    assert whole == (after == 8)
    if not whole:
        assert main(words) == 0
        assert ("goes on with" in capsys.readouterr().err) == (after >= 4)
    folder = tmp_path / FOLDER
    authority = Authority(folder)
    assert signing.signers_of(folder) is not None
    assert authority.server_pair()
    with closing(Register(folder)) as register:
        assert len(register.certificates(PeerName(Role.OPERATOR, "admin"))) == 1
    assert main(["audit", "verify", "--state", str(tmp_path)]) == 0
    assert main(["sign", str(_wheel(tmp_path)), "--state", str(tmp_path), "--line", "edgejoule"]) == 0
    # And one that was whole is left as it is.
    before = (folder / "root.pem").read_bytes()
    assert main(words) != 0
    assert "has an authority already" in capsys.readouterr().err
    assert (folder / "root.pem").read_bytes() == before


def _wheel(folder: Path) -> Path:
    path = folder / "edgejoule-9.0-py3-none-any.whl"
    path.write_bytes(b"x" * 100)
    return path


@pytest.mark.parametrize("after", [0, 1])
def test_a_renewal_of_the_issuing_certificate_that_was_cut_short_is_said(after: int, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    before = Authority.create(folder).issuing_pem
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, after)
        with pytest.raises(PowerCutError):
            Authority.renew_issuing(folder)
    if after == 0:
        assert Authority(folder).issuing_pem == before
    else:
        # A key that is not of the certificate beside it would make certificates that nobody takes.
        with pytest.raises(ConfigError, match=r"issuing.key: is not the key of issuing.pem.*--renew-issuing"):
            Authority(folder)
    assert Authority.renew_issuing(folder).issuing_pem != before
    assert Authority(folder).server_pair()


def test_lines_that_were_cut_off_the_audit_log_are_missed_by_the_register(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--state", str(tmp_path)]) == 0
    folder = tmp_path / FOLDER
    with closing(Register(folder)) as register:
        for name in ("ada", "bob"):
            issued, _ = Authority(folder).operator(name, Role.OBSERVER)
            register.issued(issued, who="local", what="certificate issued")
        register.revoke("ada", reason="lost")
        assert register.unlogged() == []
    path = folder / FILE
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    verify = ["audit", "verify", "--state", str(tmp_path)]
    assert main(verify) == 0
    for kept, missing in ((len(lines) - 1, "revocation of"), (len(lines) - 2, "of observer bob"), (1, "and 3 more")):
        path.write_bytes(b"".join(lines[:kept]))
        # The chain of what is left is whole.
        assert AuditLog(folder).verify().lines == kept
        assert main(verify) == IntegrityError.exit_code
        said = capsys.readouterr().err
        assert "lines were cut off" in said
        assert missing in said
    # In the middle of a line, too: the rest of it is no line.
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    AuditLog(folder).write("local", "note")
    assert main(verify) == IntegrityError.exit_code
    path.write_bytes(whole)
    assert main(verify) == 0


FULL = """
import resource, signal, sys
from contextlib import closing
from pathlib import Path
from coordinator.trust.authority import Authority
from coordinator.trust.register import Register
from protos.errors import StoreError
from protos.trust.names import Role

folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
issued, _ = Authority(folder).operator("ada", Role.OBSERVER)
with closing(Register(folder)) as register:
    size = register.audit.path.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), hard))
    try:
        register.issued(issued, who="local", what="certificate issued")
    except StoreError as error:
        print(error)
        sys.exit(7)
"""


@pytest.mark.parametrize("room", [0, 1, 60, 200])
def test_a_disk_that_is_full_in_the_middle_of_a_line_makes_no_certificate_and_spoils_no_line(
    room: int, tmp_path: Path
) -> None:
    folder = tmp_path / FOLDER
    Authority.create(folder)
    log = AuditLog(folder)
    # Longer than the database beside it, so that the limit meets the log alone.
    for number in range(30):
        log.write("local", "note", text="x" * 9_000, number=number)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(room)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "audit.jsonl: cannot be written" in done.stdout
    assert "Traceback" not in done.stderr
    with closing(Register(folder)) as register:
        assert register.certificates() == []
        assert register.unlogged() == []
    # Half a line would look like a log that was changed; there is none, and with room again it goes on.
    assert log.verify().lines == 30
    log.write("local", "note", text="after")
    assert log.verify().lines == 31
