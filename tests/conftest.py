"""What all tests share: a compilation cache, how much LLVM is asked to do, and which tests are the fast lane.

Most of the tests' time is compiling.
"""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# What most tests show depends on neither digits nor bits, so the same HLO may be compiled without LLVM's expensive
# passes, which takes a third less time. These are compiled as users compile them.
FULLY_COMPILED = {
    "test_checkpoints",
    "test_gae",
    "test_interruptions",
    "test_learning",
    "test_observers",
    "test_training",
}

# `pytest -m fast`: whole modules, or the tests of a module whose names begin so.
FAST = {
    "test_gae": (
        "test_recurrence_by_hand",
        "test_gae_by_hand",
        "test_interior",
        "test_equals_the_float64",
        "test_without_a_mask",
        "test_a_trajectory_cut",
        "test_lambda_zero",
        "test_where_both",
        "test_bad_input",
    ),
    "test_estimators": ("test_",),
    "test_interop": ("test_",),
    "test_rollout": ("test_rows", "test_the_value", "test_stored"),
    "test_statistics": ("test_",),
    "test_minibatches": ("test_an_epoch", "test_refuses", "test_rows_that"),
    "test_recurrence": (
        "test_a_program",
        "test_an_unknown_method",
        "test_batches_of_batches",
        "test_only_the_method",
        "test_the_table",
    ),
    "test_conformance": ("test_ours_refuses_bad_input", "test_the_reference_imports"),
    "test_algorithms": ("test_what_does_not_fit",),
    "test_check_environment": ("test_",),
    "test_parts": (
        "test_an_estimator_may",
        "test_an_objective_may",
        "test_arguments_are",
        "test_a_typing_error",
        "test_only_floats",
    ),
    "test_spaces": ("test_",),
    "test_ppo": ("test_bad_configs", "test_losses_by_hand"),
}

# Also `-m slow`: what repeats a law that the default tests show, with another body, head, size or method.
SLOW = {
    "test_algorithms": tuple(
        f"test_every_algorithm_takes_a_transformer[{name}]" for name in ("reinforce", "a2c", "trpo", "pqn", "impala")
    ),
    "test_devices": (
        "test_eight_devices_train_as_one_does_with_every",
        "test_parts_of_the_environments_train_as_the_whole_does[ppg",
        "test_parts_of_the_environments_train_as_the_whole_does[reinforce",
    ),
    "test_processes": (
        "test_a_sigterm_to_either_saves_and_ends_both_and_the_same_command_goes_on[0",
        "test_when_one_is",
        "test_one_process",
    ),
    "test_conformance": ("test_ours_passes_with_all_features[pallas", "test_ours_passes_with_all_features[assoc"),
    "test_interruptions": (
        "test_a_run_that_died_before_its_first_checkpoint_starts_again[True",
        "test_a_run_that_died_before_its_first_checkpoint_starts_again[if",
        "test_a_signal_leaves_a_run_that_goes_on_bit_for_bit_within_a_row[SIGHUP",
    ),
    "test_language_decoder": ("test_every_decoder_obeys_the_law[learned",),
    "test_language_lora": ("test_texts_are_scored_alike", "test_once_a_rollout"),
    "test_language_sentiment": ("test_a_run_is_trained",),
    "test_language_training": ("test_a_small_decoder_learns",),
    "test_learning": ("test_",),
    "test_memory": (
        "test_a_histogram_critic",
        "test_the_first_log_ratio_is_zero_late_in_training_too[linear",
        "test_the_first_log_ratio_is_zero_late_in_training_too[gru-",
        "test_where_the_limit_falls_inside_the_memorys_span_the_critic_is_right[tf",
        "test_where_the_limit_falls_inside_the_memorys_span_the_critic_is_right[lin",
    ),
    "test_parts": (
        "test_optimizers_are_functions_of_the_config_or_of_a_learning_rate[<lambda>0",
        "test_optimizers_are_functions_of_the_config_or_of_a_learning_rate[<lambda>1",
        "test_optimizers_are_functions_of_the_config_or_of_a_learning_rate[<lambda>2",
        "test_optimizers_are_functions_of_the_config_or_of_a_learning_rate[adam]",
        "test_with_one_minibatch_a_batch_is_a_minibatch[reinforce",
    ),
    "test_policies": (
        "test_every_body_obeys_the_law[cnn",
        "test_every_body_obeys_the_law[flax nnx",
        "test_every_body_obeys_the_law[linear_recurrent",
        "test_every_body_obeys_the_law[parallel",
        "test_every_body_obeys_the_law[two functions",
        "test_every_head_obeys_the_law[histogram",
        "test_remat_changes_what_is_kept_for_the_gradient_not_the_gradient[<lambda>1",
        "test_every_body_obeys_the_law[equinox",
        "test_every_body_obeys_the_law[gru with",
        "test_every_body_obeys_the_law[mlp on",
        "test_every_body_obeys_the_law[transformer that",
        "test_every_body_obeys_the_law[transformer,",
        "test_every_body_obeys_the_law[truncated",
        "test_every_head_obeys_the_law[lazy",
        "test_every_head_obeys_the_law[masked multi",
        "test_every_head_obeys_the_law[multi",
        "test_every_head_obeys_the_law[tanh",
        "test_every_memory_trains_with_64_bits_enabled[linear",
        "test_every_memory_trains_with_64_bits_enabled[options0",
        "test_every_memory_trains_with_64_bits_enabled[none",
    ),
    "test_recurrence": (
        "test_all_methods_agree_on_any_layout[shape2",
        "test_all_methods_agree_on_any_layout[shape3",
        "test_all_methods_agree_on_any_layout[shape6",
        "test_all_methods_agree_on_any_layout[shape7",
        "test_derivatives_are_those_of_the_plain_scan_in_every_mode_and_order[pallas_lanes",
        "test_gradients_of_a_batch_are_the_batch_of_gradients[0-associative",
        "test_gradients_of_a_batch_are_the_batch_of_gradients[0-pallas_lanes",
        "test_gradients_of_a_batch_are_the_batch_of_gradients[1-",
    ),
    "test_suites": ("test_rows_of_craftax", "test_rows_of_playground"),
    "test_watch": (
        "test_each_algorithm_counts_what_its_environment_breaks_and_keeps_its_parameters[observations",
        "test_whatever_is_injected",
    ),
    "test_trpo": ("test_no_step_leaves_its_region_or_makes_the_surrogate_worse[True",),
}


@pytest.fixture(autouse=True, scope="module")
def optimizations(request):
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ not in FULLY_COMPILED)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks the fast lane; where all tests were collected, a name that no test has is an error."""
    found = set()
    for item in items:
        module = item.module.__name__
        for start in FAST.get(module, ()):
            if item.name.startswith(start):
                item.add_marker("fast")
                found.add((module, start))
        if item.name.startswith(SLOW.get(module, ("\0",))):
            item.add_marker("slow")
    missing = {(module, start) for module, starts in FAST.items() for start in starts} - found
    if missing and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"FAST in conftest.py names no test: {', '.join('::'.join(each) for each in missing)}")
