"""Which tests of a bench run: without one none does, and what a bench lacks is named."""

from __future__ import annotations

import pytest

from hw_tests.bench.features import FEATURES


def test_without_a_bench_every_test_skips_and_says_why(inner):
    done = inner(
        """
        import pytest
        def test_with_a_bench(bench): assert False
        def test_with_its_bridge(bridge): assert False
        @pytest.mark.needs("board")
        def test_with_a_marker(): assert False
        def test_of_something_else(): pass
        """
    )
    done.assert_outcomes(skipped=3, passed=1)
    done.stdout.fnmatch_lines(["*no bench: give --hw-sim, or --hw-env FILE*"])


def test_what_a_real_bench_lacks_is_named_and_what_it_must_not_do_is_not_done(inner, environment_file, bench_name):
    path = environment_file(("  power:\n    on: true on\n    off: true off\n    off_s: 0.1\n    ready_s: 5\n", ""),
                            features="ina219-bridge, known-load", name=bench_name)  # fmt: skip
    source = """
        import pytest
        @pytest.mark.needs("ina219-bridge", "marker")
        def test_marker(): assert False
        @pytest.mark.sim_only
        def test_sim(): assert False
        @pytest.mark.destructive
        def test_flash(): pass
        @pytest.mark.real_only
        @pytest.mark.needs("known-load")
        def test_real(): pass
        """
    done = inner(source, "--hw-env", path)
    done.assert_outcomes(passed=1, skipped=3)
    said = done.stdout.str()
    assert f"bench {bench_name} lacks marker ({FEATURES['marker']})" in said
    assert f"only for a simulated bench, and {bench_name} is real" in said
    assert f"changes bench {bench_name} for good: give --hw-destructive" in said
    inner(source, "--hw-env", path, "--hw-destructive").assert_outcomes(passed=2, skipped=2)


def test_a_feature_that_no_bench_can_have_is_an_error_before_anything_runs(inner):
    source = """
        import pytest
        @pytest.mark.needs("power-swich")
        def test_a(): pass
        def test_b(): pass
        """
    done = inner(source, "--hw-sim")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "did you mean 'power-switch'?" in done.stderr.str()
    assert "passed" not in done.stdout.str()


@pytest.mark.parametrize("words", ["", 'feature="marker"'])
def test_a_marker_without_a_good_name_is_an_error(inner, words):
    done = inner(f"import pytest\n@pytest.mark.needs({words})\ndef test_a(): pass\n", "--hw-sim")
    assert done.ret == pytest.ExitCode.USAGE_ERROR


def test_a_wrong_environment_is_one_line(inner, environment_file):
    path = environment_file(("bench: bench-1", "bensh: bench-1"))
    done = inner("def test_a(): pass", "--hw-env", path)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in done.stderr.str().splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].endswith("x-edgejoule: no key is called 'bensh'; did you mean 'bench'?")
