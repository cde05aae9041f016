"""ROUGE of generated texts, and what else is said of them: how long they are, how much of them is new.

Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries (aclanthology.org/W04-1013); in the details as the Python
package `rouge_score` without its stemmer.
"""

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from tasks.kinds.kind import Array, Metrics
from tasks.scoring.ratios import ratio

if TYPE_CHECKING:
    import pandas as pd

Words = Literal["ascii", "unicode"]
NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_PARTS = ("precision", "recall", "f1")
ROUGE_L_F1 = NAMES.index("rougeL") * len(_PARTS) + _PARTS.index("f1")
"""The column of `rouge_statistics` with each row's F1 of ROUGE-L."""
_COUNTS = len(NAMES) * len(_PARTS)
# A few letters are lost in English too: é, ñ. Of other languages it is a tenth (German, French) or nearly all.
_MUCH_LOST = 0.05
# Scripts that are written without spaces between words: their characters count as words.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


class Score(NamedTuple):
    """How much a text and its reference have in common, as fractions 0-1."""

    precision: float
    recall: float
    f1: float


def split_words(text: str, words: Words) -> list[str]:
    """Return the words of a text in lower case.

    Args:
        text: The text.
        words: `ascii` knows the letters a-z and the digits only, as `rouge_score` does, and takes all else for spaces; `unicode`
            knows letters, marks and digits of all scripts, and takes each character for a word where a script has no spaces.
    """
    text = text.lower()
    if words == "ascii":
        return re.findall(r"[a-z0-9]+", text)
    return "".join(map(_spaced, unicodedata.normalize("NFC", text))).split()


@functools.cache
def _spaced(char: str) -> str:
    """Return a character as it is if it is part of a word, between spaces if it is one, and as a space if it is none."""
    category = unicodedata.category(char)
    if category[0] not in "LMN":
        return " "
    alone = category == "Lo" and unicodedata.name(char, "").startswith(_UNSPACED)
    return f" {char} " if alone else char


def score_ngrams(reference: Sequence[str], prediction: Sequence[str], size: int) -> Score:
    """Return the overlap in n-grams of `size` words: ROUGE-N."""
    wanted, found = (_ngrams(words, size) for words in (reference, prediction))
    return _score((wanted & found).total(), wanted.total(), found.total())


def score_subsequence(reference: Sequence[str], prediction: Sequence[str]) -> Score:
    """Return the share of the longest common subsequence of words: ROUGE-L."""
    return _score(common_length(reference, prediction), len(reference), len(prediction))


def score_sentences(reference: Sequence[Sequence[str]], prediction: Sequence[Sequence[str]]) -> Score:
    """Return ROUGE-L of whole summaries: the words of each reference sentence that are in common with any sentence of the other.

    A word counts as often as it is in both.
    """
    wanted, found = (Counter(word for sentence in sentences for word in sentence) for sentences in (reference, prediction))
    left, hits = wanted & found, 0
    for sentence in reference:
        union = sorted(set().union(*(common_positions(sentence, other) for other in prediction)))
        for word in (sentence[position] for position in union):
            if left[word] > 0:
                hits, left[word] = hits + 1, left[word] - 1
    return _score(hits, wanted.total(), found.total())


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits: a bit per word of `first`, all at once.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited (AWOCA 2004).
    """
    places: dict[str, int] = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(first) - row.bit_count()


def common_positions(reference: Sequence[str], prediction: Sequence[str]) -> set[int]:
    """Return the positions in `reference` of a longest common subsequence; of several, that which `rouge_score` takes."""
    table = [[0] * (len(prediction) + 1)]
    for wanted in reference:
        above, row = table[-1], [0]
        for column, word in enumerate(prediction):
            row.append(above[column] + 1 if word == wanted else max(above[column + 1], row[column]))
        table.append(row)
    row_number, column_number, positions = len(reference), len(prediction), set()
    while row_number and column_number:
        if reference[row_number - 1] == prediction[column_number - 1]:
            row_number, column_number = row_number - 1, column_number - 1
            positions.add(row_number)
        elif table[row_number][column_number - 1] > table[row_number - 1][column_number]:
            column_number -= 1
        else:
            row_number -= 1
    return positions


def score_text(reference: str, prediction: str, words: Words) -> dict[str, Score]:
    """Return ROUGE-1, -2, -L and -Lsum of a text; for the last one, each line is a sentence."""
    sentences = [[split_words(line, words) for line in text.split("\n") if line] for text in (reference, prediction)]
    wanted, found = ([word for sentence in text for word in sentence] for text in sentences)
    subsequence = score_subsequence(wanted, found)
    # With a sentence each, both are the same; the table of the other is slow.
    alone = all(len(text) == 1 for text in sentences)
    return {
        "rouge1": score_ngrams(wanted, found, 1),
        "rouge2": score_ngrams(wanted, found, 2),
        "rougeL": subsequence,
        "rougeLsum": subsequence if alone else score_sentences(*sentences),
    }


def rouge_statistics(predictions: Sequence[str], references: Sequence[str], documents: Sequence[str], words: Words) -> Array:
    """Return what the metrics of each row need.

    Args:
        predictions: Generated texts.
        references: Texts that were expected.
        documents: What they were made of.
        words: See `split_words`.

    Returns:
        Array: shape (rows, 17): precision, recall and F1 of each of `NAMES`; words of the prediction and of the reference;
        bigrams of the prediction that its document lacks, and all of them; 1.
    """
    rows = []
    for prediction, reference, document in zip(predictions, references, documents, strict=True):
        scores = score_text(reference, prediction, words)
        found, wanted = split_words(prediction, words), split_words(reference, words)
        known, bigrams = set(itertools.pairwise(split_words(document, words))), list(itertools.pairwise(found))
        novel = sum(bigram not in known for bigram in bigrams)
        numbers = [value for name in NAMES for value in scores[name]]
        rows.append([*numbers, len(found), len(wanted), novel, len(bigrams), 1])
    return np.array(rows, np.float64).reshape(len(rows), _COUNTS + 5)


def rouge_metrics(sums: Array) -> Metrics:
    """Return the means of ROUGE's F1, the length ratio, the share of novel bigrams, and the means of precision and recall.

    The length ratio is that of the words of all predictions to those of all references. Novel bigrams are pairs of words that
    follow each other in a prediction but not in its document; a ratio with a zero denominator is 0.
    Source: See et al. 2017, Get To The Point, section 6.2 (arXiv 1704.04368) for novel n-grams.

    Args:
        sums: Column sums of `rouge_statistics`, shape (…, 17).
    """
    sums = np.asarray(sums, np.float64)
    means = sums[..., :_COUNTS] / sums[..., -1:]
    of = dict(zip(itertools.product(NAMES, _PARTS), np.moveaxis(means, -1, 0), strict=True))
    found, wanted, novel, bigrams = np.moveaxis(sums[..., _COUNTS:-1], -1, 0)
    return {
        **{name: of[name, _PARTS[-1]] for name in NAMES},
        "length_ratio": ratio(found, wanted),
        "novel_bigrams": ratio(novel, bigrams),
        **{f"{name}/{part}": of[name, part] for name, part in itertools.product(NAMES, _PARTS[:2])},
    }


def lost_letters(text: str, words: Words) -> float:
    """Return the fraction of a text's letters and digits that are in no word."""
    letters = sum(_spaced(char) != " " for char in unicodedata.normalize("NFC", text.lower()))
    return max(0.0, 1 - sum(map(len, split_words(text, words))) / letters) if letters else 0.0


def text_analysis(before: "pd.DataFrame", after: "pd.DataFrame") -> list[str]:
    """Return sentences on the texts that two models wrote, and a warning where ROUGE sees few of their words.

    Args:
        before: Columns `reference`, `prediction`, `score` and `lost`; see `lost_letters`.
        after: The same rows of another model.
    """
    texts = {"before": before["prediction"], "after": after["prediction"], "reference": after["reference"]}
    words = {name: np.mean([len(text.split()) for text in column]) for name, column in texts.items()}
    same = {name: int(column.duplicated(keep=False).sum()) for name, column in texts.items()}
    empty = {name: int((column == "").sum()) for name, column in texts.items()}
    told = [
        f"A text has {words['before']:.1f} words before and {words['after']:.1f} after, in the mean; a reference has "
        f"{words['reference']:.1f}.",
        f"Texts with the words of their reference, in its order: {int((before['score'] == 1).sum()):,} before, "
        f"{int((after['score'] == 1).sum()):,} after.",
        f"Texts that more than one row got: {same['before']:,} before, {same['after']:,} after; of the references "
        f"{same['reference']:,} are such.",
    ]
    if empty["before"] or empty["after"]:
        told.append(f"Empty texts: {empty['before']:,} before, {empty['after']:,} after.")
    if (lost := float(after["lost"].mean())) > _MUCH_LOST:
        told.append(
            f"ROUGE ignores {lost:.0%} of the references' letters, which are not a-z: set rouge.words to 'unicode' to count them."
        )
    return told


def _ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _score(common: int, wanted: int, found: int) -> Score:
    """Return precision, recall and their harmonic mean; 0 where there is nothing."""
    precision, recall = common / found if found else 0.0, common / wanted if wanted else 0.0
    return Score(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)
