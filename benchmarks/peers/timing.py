"""How every peer is timed: two lengths of answer, and what lies between."""

import json
import resource
import sys
import time

SIZES = {  # of Gemma 3 270M, in the shape of Gemma 1
    "vocabulary_size": 256_000,
    "num_layers": 18,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 640,
    "intermediate_dim": 2048,  # of one branch
    "head_dim": 256,
}


def arguments() -> tuple[str, int, int, int, int]:
    """dtype, tokens of the prompt, rows, new tokens of the short and of the long call."""
    return sys.argv[1], *map(int, sys.argv[2:6])


def report(generate, rows: int, short: int, long: int, repeats: int = 3) -> None:
    """Print what `generate(new_tokens)` takes: seconds of CPU, the best of some calls."""
    seconds = {}
    for count in (short, long):
        began = time.process_time()
        generate(count)
        seconds["cold", count] = time.process_time() - began
        times = []
        for _ in range(repeats):
            began = time.process_time()
            generate(count)
            times.append(time.process_time() - began)
        seconds[count] = min(times)
    per_token = (seconds[long] - seconds[short]) / (long - short)
    print(
        json.dumps(
            {
                "tokens_per_second": rows / per_token,
                "first_token": seconds[short] - (short - 1) * per_token,
                "cold": seconds["cold", short],
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )
