"""What all tests share: a compilation cache, and how much LLVM is asked to do. Most of their time is compiling."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Laws about digits and bits, and learning, are shown on programs as users run them. The others compile the same HLO
# without LLVM's expensive passes, which takes a third less time.
AS_USERS_RUN_IT = {
    "test_gae",
    "test_language",
    "test_language_checkpoints",
    "test_learning",
    "test_memory",
    "test_ppo",
    "test_recurrence",
    "test_training",
    "test_trpo",
}


@pytest.fixture(autouse=True, scope="module")
def optimizations(request):
    jax.config.update("jax_disable_most_optimizations", request.module.__name__ not in AS_USERS_RUN_IT)
