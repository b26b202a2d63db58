"""Plans: what is said of a run's memory, time and traffic is what the compiler and the clock say."""

import importlib.util
import sys
from types import SimpleNamespace

import jax
import pytest
from scripts import load_script

import gaejax
from gaejax.training import Collective, Experiment
from gaejax.training.driver import lay_out, lower_training
from gaejax.training.plan import Program, _Search, collectives, compile_program, host_memory, megabytes

CONFIG = gaejax.PPOConfig(num_envs=4, num_steps=8, num_epochs=1, num_minibatches=1)
EXPERIMENT = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=640, num_seeds=16)
MODULE = sys.modules["gaejax.training.plan"]  # the package has a function of that name


@pytest.fixture(scope="module")
def planned():
    """A plan on a device whose memory is that of 48 seeds, and those bytes."""
    needed = compiled_bytes(48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "device_memory", lambda device: needed)
        return gaejax.plan(EXPERIMENT), needed


def compiled_bytes(num_seeds):
    experiment = Experiment(environment="CartPole-v1", config=CONFIG, total_steps=640, num_seeds=num_seeds)
    algorithm = experiment.build()
    layout, shapes = lay_out(experiment, algorithm)
    memory = lower_training(algorithm, shapes, 1, layout).compile().memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def test_memory_is_that_of_the_program_and_seeds_that_fit_lie_on_a_line(planned):
    plan, memory = planned
    assert plan.bytes_per_device == compiled_bytes(16)
    assert plan.memory == memory and plan.fits
    assert plan.seeds_that_fit == pytest.approx(48, abs=2)
    assert plan.compilations == 2


def test_time_is_that_of_all_updates(planned):
    plan, _ = planned
    assert plan.updates == 20
    assert 0 < plan.seconds < 20 and plan.compile_seconds > 0


def test_the_report_says_everything_in_plain_text(planned):
    plan, _ = planned
    report = plan.report()
    for text in (
        "PPO on CartPole-v1",
        megabytes(plan.bytes_per_device),
        "fits            yes",
        f"{plan.seeds_that_fit}",
    ):
        assert text in report
    unknown = plan._replace(memory=None, fits=None, seeds_that_fit=None, seconds=None).report()
    assert unknown.count("not known") == 3
    refused = plan._replace(bytes_per_device=None, fits=False).report()
    assert "more than the device has" in refused and "fits            no" in refused


def test_a_run_that_does_not_fit_is_said_not_to(planned, monkeypatch):
    monkeypatch.setattr(MODULE, "device_memory", lambda device: 1000)
    plan = gaejax.plan(EXPERIMENT, max_compilations=1)
    assert plan.fits is False and plan.seeds_that_fit is None and plan.compilations == 1


@pytest.mark.parametrize("limit", [1, 3, 15, 16, 100, 10_000])
def test_the_search_by_compiling_is_bounded_and_never_says_more_than_was_accepted(limit):
    tried = []

    def program_of(num_seeds):
        tried.append(num_seeds)
        return Program(None, num_seeds if num_seeds <= limit else None, 0.0, None if num_seeds <= limit else 2**34)

    search = _Search(program_of, 16, program_of(16), 1, 12)
    found = search.by_compiling()
    assert found in tried and found <= limit < found + max(2, found // 8 + 1)
    assert search.compilations == len(tried) <= 12
    assert search.memory == 2**34


def test_the_search_by_compiling_tries_what_the_devices_can_share_evenly():
    tried = []

    def program_of(num_seeds):
        tried.append(num_seeds)
        return Program(None, num_seeds if num_seeds <= 50 else None, 0.0)

    found = _Search(program_of, 8, program_of(8), 4, 9).by_compiling()
    assert all(number % 4 == 0 for number in tried) and 44 <= found <= 50


def test_a_refusal_of_the_compiler_is_no_error():
    def compile():
        text = "RESOURCE_EXHAUSTED: Ran out of memory: HLO temporaries (22.53G) exceeds available HBM (15.75G)"
        raise jax.errors.JaxRuntimeError(text)

    program = compile_program(SimpleNamespace(compile=compile))
    assert program.compiled is None and program.bytes is None
    assert program.memory == int(15.75 * 2**30)


def test_collectives_by_hand():
    text = """
      %a = f32[8,128]{1,0:T(8,128)} all-reduce(%x), replica_groups={{0,1}}
      %b = (f32[2]{0}, /*index=1*/bf16[3]{0}) all-reduce(%x, %y), to_apply=%add
      %c = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}
      %d = f32[16]{0} all-gather-done(%c)
      %e = pred[] collective-permute(%x)
      %f = f32[8] fusion(%all-reduce.1)
    """
    assert collectives(text) == (
        Collective("all-gather", 1, 64),
        Collective("all-reduce", 2, 4096 + 8 + 6),
        Collective("collective-permute", 1, 1),
    )


def test_the_memory_of_the_host_is_a_plausible_number():
    assert host_memory() is None or 2**26 < host_memory() < 2**50


def test_what_cannot_be_planned_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"^num_seeds must be at least 1, got 0$"):
        gaejax.plan(Experiment(environment="CartPole-v1", config=CONFIG, total_steps=640, num_seeds=0))
    with pytest.raises(ValueError, match=r"^max_compilations must be at least 1, got 0$"):
        gaejax.plan(EXPERIMENT, max_compilations=0)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find_spec(name))
    with pytest.raises(ImportError, match=r"^topology 'v5e:2x2' needs libtpu, .* pip install 'jax\[tpu\]'$"):
        gaejax.plan(EXPERIMENT, topology="v5e:2x2")


def test_the_script_prints_a_plan_and_starts_nothing(monkeypatch, capsys, tmp_path):
    train, asked = load_script("train"), []

    def plan(experiment, topology, **devices):
        asked.append((experiment.num_seeds, topology))
        return SimpleNamespace(report=lambda: "the plan")

    monkeypatch.setattr(train, "plan", plan)
    output = tmp_path / "run"
    assert train.main(["--plan", "--topology", "v5e:2x2", "--num-seeds", "3", "--output", str(output)]) == {}
    assert capsys.readouterr().out == "the plan\n"
    assert asked == [(3, "v5e:2x2")] and not output.exists()
    with pytest.raises(ValueError, match=r"^--topology is for planning: add --plan$"):
        train.main(["--topology", "v5e:2x2"])
