"""How long the explorer takes to open, and to answer its slider.

    python benchmarks/explorer.py runs/demo [--moves 20]

Opening is everything a fresh Python does until the panels can be shown, imports included; the language model is read
meanwhile by another thread, and the time until card and polytope are complete is printed too. A move of the slider
is answered when the text with the new bars has been made, for a teacher's vector, a difference of means and a random
direction at once.
"""

import time

START = time.perf_counter()

import argparse
import statistics
import threading

from polytope_hsae.explorer import explore


def seconds(action) -> float:
    "Wall time of a call"
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--moves", type=int, default=20, help="moves of the slider")
    args = parser.parse_args()
    tab = explore(args.run)
    print(f"opens in {time.perf_counter() - START:.1f} s, imports included (at most 10 s)", flush=True)
    for thread in threading.enumerate():
        if thread.name == "explorer":
            thread.join()
    print(
        f"language model read, first card and polytope complete after {time.perf_counter() - START:.1f} s", flush=True
    )
    for number, title in list(enumerate(tab.titles))[1:]:
        print(f"panel {title!r} opens in {seconds(lambda: tab.set_trait('selected_index', number)):.1f} s", flush=True)
    panel = tab.children[list(tab.titles).index("Steering")].children
    slider = next(control for control in panel if getattr(control, "description", "") == "Dose")
    doses = [-4 + 8 * i / args.moves for i in range(args.moves)]
    moves = [1000 * seconds(lambda: slider.set_trait("value", dose)) for dose in doses]
    print(
        f"a move of the slider: median {statistics.median(moves):.0f} ms, longest {max(moves):.0f} ms (at most 300 ms)"
    )


if __name__ == "__main__":
    main()
