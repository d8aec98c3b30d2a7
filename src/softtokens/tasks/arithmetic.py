"""Small word problems a tiny model can solve step by step, and everyday facts that training on them never touches.

Everything is drawn from `random.Random` with explicit text seeds, so a split is the same on every machine. A hash of
the question decides which split a problem belongs to: whatever the seeds, train, validation and test never share one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Sequence

from softtokens.endings import PAPER
from softtokens.types import ChoiceItem, Problem, UserError

SPLITS = ("train", "validation", "test")
DIFFICULTIES = {"short": (2, 4), "long": (5, 7)}  # fewest and most operations
LARGEST = 99  # every number of a problem, intermediate results included, lies in 0..LARGEST
LARGEST_CHANGE = 30
TEMPLATE = "User: {question}\nAssistant:"
FINAL_SENTENCE = PAPER.ways[0].core
CAREFUL, HASTY = " Then", " So"  # opening of a step: one change as an equation, or two changes at once

_VALIDATION_BUCKET, _TEST_BUCKET, _BUCKETS = 0, 1, 10  # train takes the other eight


@dataclasses.dataclass(frozen=True)
class _Scene:
    """One kind of story. `{k}` is the number that comes or goes."""

    opening: str
    gain: tuple[str, ...]
    loss: tuple[str, ...]
    double: str
    triple: str
    question: str


_SCENES = (
    _Scene(
        opening="{who} has {n} {things}.",
        gain=("{He} buys {k} more.", "{He} finds {k} more.", "{He} gets {k} from {other}."),
        loss=("{He} gives {k} to {other}.", "{He} loses {k}.", "{He} sells {k}."),
        double="Now {he} has twice as many.",
        triple="Now {he} has 3 times as many.",
        question="How many {things} does {he} have?",
    ),
    _Scene(
        opening="{who} puts {n} {things} in a box.",
        gain=("{He} puts in {k} more.", "{other} puts in {k} more."),
        loss=("{He} takes out {k}.", "{other} takes out {k}."),
        double="Then the number doubles.",
        triple="Then the number triples.",
        question="How many {things} are in the box?",
    ),
    _Scene(
        opening="{who} drives a bus with {n} people.",
        gain=("{k} get on.", "{k} more get on."),
        loss=("{k} get off.", "{k} leave."),
        double="Then the number doubles.",
        triple="Then the number triples.",
        question="How many people are on the bus?",
    ),
)

PEOPLE = {  # name -> pronoun
    "Tom": "he", "Ann": "she", "Ben": "he", "Eva": "she", "Max": "he", "Mia": "she",
    "Sam": "he", "Zoe": "she", "Leo": "he", "Ida": "she", "Jim": "he", "Amy": "she",
}  # fmt: skip
THINGS = ("apples", "books", "coins", "cards", "pens", "eggs", "balls", "stones", "cups", "stamps", "shells", "keys")


def problems(split: str, count: int, *, difficulty: str = "short", seed: int = 0) -> list[Problem]:
    """`count` different word problems; a longer list begins with the shorter one of the same arguments.

    `columns` carry the question alone, the number the story starts with and the changes in order, such as `+7` or `*2`.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; the arithmetic task has {', '.join(SPLITS)}.")
    if difficulty not in DIFFICULTIES:
        raise UserError(f"difficulty is {difficulty!r}; the arithmetic task has {', '.join(DIFFICULTIES)}.")
    if count < 1:
        raise UserError(f"count is {count}; ask the arithmetic task for 1 problem or more.")
    drawn: list[Problem] = []
    questions: set[str] = set()
    for question, start, changes in _stories(random.Random(f"arithmetic {split} {difficulty} {seed}"), difficulty):
        if _split_of(question) != split or question in questions:
            continue
        questions.add(question)
        columns = {"question": question, "start": start, "changes": changes}
        answer = str(running_values(start, changes)[-1])
        drawn.append(Problem(len(drawn), TEMPLATE.replace("{question}", question), answer, columns))
        if len(drawn) == count:
            break
    return drawn


def worked_chain(problem: Problem) -> str:
    """The ideal continuation of the prompt: the starting number, one equation per change, the answer in its box."""
    values = running_values(problem.columns["start"], problem.columns["changes"])
    steps = (
        f"{CAREFUL} {a}{change}={b}."
        for a, change, b in zip(values, problem.columns["changes"], values[1:], strict=False)
    )
    return f" {values[0]}." + "".join(steps) + final_sentence(values[-1])


def final_sentence(answer: int) -> str:
    return rf" {FINAL_SENTENCE} \boxed{{{answer}}}"


def running_values(start: int, changes: Sequence[str]) -> list[int]:
    """The number before the first change and after each of them."""
    values = [start]
    for change in changes:
        values.append(apply_change(values[-1], change))
    return values


def apply_change(value: int, change: str) -> int:
    sign, amount = change[0], int(change[1:])
    return {"+": value + amount, "-": value - amount, "*": value * amount}[sign]


def _stories(rng: random.Random, difficulty: str) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Question, starting number and changes, without end and from every split."""
    while True:
        scene = rng.choice(_SCENES)
        who, other = rng.sample(list(PEOPLE), 2)
        he, things = PEOPLE[who], rng.choice(THINGS)
        start = value = rng.randint(3, 60)
        sentences, changes = [scene.opening], []
        for _ in range(rng.randint(*DIFFICULTIES[difficulty])):
            change = _draw_change(rng, value)
            value = apply_change(value, change)
            changes.append(change)
            sentences.append(_sentence(rng, scene, change).replace("{k}", change[1:]))
        text = " ".join([*sentences, scene.question])
        yield text.format(who=who, other=other, he=he, He=he.title(), n=start, things=things), start, tuple(changes)


def _draw_change(rng: random.Random, value: int) -> str:
    allowed = ["+"] * 3 * (value < LARGEST) + ["-"] * 3 * (value > 1) + ["*"] * (0 < 2 * value <= LARGEST)
    sign = rng.choice(allowed)
    if sign == "+":
        return f"+{rng.randint(1, min(LARGEST_CHANGE, LARGEST - value))}"
    if sign == "-":
        return f"-{rng.randint(1, min(LARGEST_CHANGE, value))}"
    return f"*{rng.randint(2, 3 if 3 * value <= LARGEST else 2)}"


def _sentence(rng: random.Random, scene: _Scene, change: str) -> str:
    if change[0] == "*":
        return scene.double if change == "*2" else scene.triple
    return rng.choice(scene.gain if change[0] == "+" else scene.loss)


def _split_of(question: str) -> str:
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % _BUCKETS
    return {_VALIDATION_BUCKET: "validation", _TEST_BUCKET: "test"}.get(bucket, "train")


@dataclasses.dataclass(frozen=True)
class Fact:
    """Something everybody knows, the ways to ask for it, and the answers to the same question about other subjects."""

    questions: tuple[str, ...]
    right: str
    wrong: tuple[str, ...]


_FACTS: dict[tuple[str, ...], dict[str, str]] = {
    ("Where does the {} live?", "Where can you see the {}?"): {
        "in the forest": "fox wolf deer owl bear badger squirrel",
        "in the sea": "whale shark seal crab dolphin tuna",
        "on a farm": "cow pig hen goat horse sheep donkey",
        "in the desert": "camel lizard scorpion snake",
        "in the jungle": "tiger monkey parrot gorilla jaguar",
        "in the river": "otter beaver trout frog duck",
        "in the snow": "penguin reindeer husky",
    },
    ("What does the {} eat?", "What do you give the {} to eat?"): {
        "grass": "cow sheep horse goat deer",
        "fish": "seal penguin otter dolphin pelican",
        "meat": "wolf tiger lion shark eagle",
        "seeds": "hen parrot pigeon sparrow hamster",
        "insects": "frog lizard spider bat swallow",
        "leaves": "giraffe panda gorilla snail koala",
        "nuts": "squirrel mouse jay",
    },
    ("What color is the {}?", "Which color does the {} have?"): {
        "red": "tomato cherry strawberry rose brick",
        "yellow": "lemon banana sun duckling corn",
        "green": "frog cucumber leaf pea lime",
        "white": "milk snow swan sugar salt cloud",
        "black": "raven coal tire night ink",
        "brown": "bear potato chestnut coffee soil",
        "blue": "sky sea whale jeans",
    },
    ("Who needs the {}?", "Who works with the {}?"): {
        "the cook": "pan ladle stove recipe",
        "the farmer": "plow tractor barn scarecrow",
        "the doctor": "needle pill thermometer bandage",
        "the teacher": "chalk board desk",
        "the painter": "brush canvas easel",
        "the sailor": "anchor sail rudder compass",
        "the tailor": "thread button scissors",
    },
    # These two share names, things and "How many ... have?" with the word problems, so training can affect them.
    ("How many legs does the {} have?", "How many legs do you count on the {}?"): {
        "0": "snake fish snail whale",
        "2": "hen duck penguin owl parrot",
        "4": "cow horse wolf frog table",
        "6": "ant bee beetle",
        "8": "spider crab scorpion",
    },
    ("What does {} like?", "What does {} have at home?"): {
        "apples": "Tom Ida",
        "books": "Ann Leo",
        "coins": "Ben Amy",
        "stamps": "Eva Jim",
        "shells": "Max Zoe",
        "keys": "Mia Sam",
    },
}


def facts() -> tuple[Fact, ...]:
    """Every fact of the small world, in a fixed order."""
    return tuple(
        Fact(tuple(form.format(subject) for form in forms), right, tuple(other for other in table if other != right))
        for forms, table in _FACTS.items()
        for right, subjects in table.items()
        for subject in subjects.split()
    )


def multiple_choice(count: int, *, seed: int = 0) -> list[ChoiceItem]:
    """Facts to be told from three wrong answers: what a model knew before it was trained on word problems.

    The right answer stands at each of the four positions equally often (give or take one).
    """
    pool = [(fact, question) for fact in facts() for question in fact.questions]
    if not 1 <= count <= len(pool):
        raise UserError(f"count is {count}; the arithmetic task has 1 to {len(pool)} multiple-choice questions.")
    rng = random.Random(f"facts {seed}")
    positions = [i % 4 for i in range(count)]
    rng.shuffle(positions)
    items: list[ChoiceItem] = []
    for (fact, question), position in zip(rng.sample(pool, count), positions, strict=True):
        choices = rng.sample(fact.wrong, 3)
        choices.insert(position, fact.right)
        prompt = TEMPLATE.replace("{question}", question)
        items.append(ChoiceItem(len(items), prompt, tuple(f" {choice}" for choice in choices), position))
    return items
