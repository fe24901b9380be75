"""What predicting and training take on cards of some sizes, by count: a Markdown table, no GPU needed.

    python benchmarks/card_memory.py                       # Stable Diffusion 1.5, all tasks: some three minutes
    python benchmarks/card_memory.py --tasks refer --cards 6GB,10GB
    python benchmarks/card_memory.py --size tiny --px 64   # does it run

`vpd info MODEL --card 12GB` tells the same of a model. What is assumed stands in `vpd/training/card_memory.py`; nothing
of it is measured.
"""

from __future__ import annotations

import argparse

from random_models import random_config

from vpd.tasks.table import TASKS
from vpd.training.cards import Card, Subject, parse_cards, prediction_rows, training_rows

TEXT_ENCODER_BYTES = 123_060_480 * 4
_CLASSES = {"segment": 150, "refer": 1, "depth": 27}


def print_task(task: str, cards: list[Card], given: argparse.Namespace) -> None:
    """The lines of a task."""
    kind = TASKS[task]
    crop_px = given.px or kind.recipes["default"]["crop_px"]
    config = random_config(task, given.size, _CLASSES[task])
    config = config.model_copy(update={"fit": kind.training_fit("default", crop_px)})
    text_bytes = TEXT_ENCODER_BYTES if kind.reads_tokens else 0
    subject = Subject(config, kind, crop_px, "random", text_bytes)
    for verb, rows in (("predict", prediction_rows), ("train", training_rows)):
        for row in rows(subject, cards):
            print(f"| {task}, {verb} | {row.what} | {' | '.join(row.cells)} |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "sd15"], default="sd15")
    parser.add_argument("--px", type=int, help="side of the crops; none = the recipe's")
    parser.add_argument("--tasks", nargs="*", choices=list(_CLASSES), default=list(_CLASSES))
    parser.add_argument("--cards", default="8GB,12GB,16GB,24GB", help="as for vpd info --card")
    given = parser.parse_args()
    cards = parse_cards(given.cards)
    print(f"| | | {' | '.join(card.name for card in cards)} |\n|---|---|{'---|' * len(cards)}")
    for task in given.tasks:
        print_task(task, cards, given)


if __name__ == "__main__":
    main()
