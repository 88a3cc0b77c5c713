"""tasks/translation_scripts.py: which writing a text is in, and the tokeniser that suits it."""

from __future__ import annotations

import doctest

import pytest

from pbt_flow.tasks import translation_scripts as scripts
from pbt_flow.tasks.translation_scripts import choose_tokenizer, shares

ENGLISH = "Let us try something else today."


def test_the_examples_in_the_docstrings_are_true() -> None:
    found = doctest.testmod(scripts)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("text", "tokenizer", "reason"),
    [
        ("我們試試看。", "zh", "zh, since 100% of the letters of the target are Chinese"),
        ("我们用 GPU 训练模型", "zh", "are Chinese"),
        (
            "彼は学校へ行きます",
            "char",
            "char, since 100% of the letters of the target are Japanese",
        ),
        ("カタカナ", "char", "are Japanese"),
        ("나는 학교에 갑니다", "char", "are Korean"),
        ("ผมไปโรงเรียน", "char", "are Thai"),
        ("ຂ້ອຍໄປໂຮງຮຽນ", "char", "are Lao"),
        ("ខ្ញុំទៅសាលារៀន", "char", "are Khmer"),
        ("ကျွန်တော်ကျောင်းသွားတယ်", "char", "are Burmese"),
        (ENGLISH, "13a", "13a, which suits a target with spaces between its words"),
        ("Попробуем что-нибудь", "13a", "with spaces"),
        ("دعنا نجرب شيئا آخر", "13a", "with spaces"),
        ("आइए कुछ और कोशिश करें", "13a", "with spaces"),
        ("1234 !?", "13a", "with spaces"),
        ("", "13a", "with spaces"),
        # A word of Chinese among many of English is no reason, but is told.
        (
            f"{ENGLISH} 我们试",
            "13a",
            "13a, since only 10% of the letters of the target are Chinese",
        ),
        (f"{ENGLISH * 9} 我们试", "13a", "13a, which suits"),
        (f"我們試試看我們試試看 {ENGLISH}", "zh", "28% of the letters of the target are Chinese"),
        # Kanji alone in one sentence, and a Japanese product's name in a Chinese text.
        ("東京 に 行く 大学", "char", "100% of the letters of the target are Japanese"),
        ("他喜欢の字和中文写的东西很多", "zh", "are Chinese or Japanese"),
    ],
)
def test_the_script_of_the_target_chooses_the_tokeniser(
    text: str, tokenizer: str, reason: str
) -> None:
    name, sentence = choose_tokenizer(shares([text]))
    assert name == tokenizer
    assert reason in sentence


@pytest.mark.parametrize(
    ("text", "given", "warned"),
    [
        ("我們試試看", "13a", True),
        ("我們試試看", "intl", True),
        ("我們試試看", "ja-mecab", True),
        ("我們試試看", "zh", False),
        ("我們試試看", "flores200", False),
        ("彼は学校へ行きます", "zh", True),
        ("彼は学校へ行きます", "ja-mecab", False),
        ("ผมไปโรงเรียน", "none", True),
        ("나는 학교에 갑니다", "13a", False),
        (ENGLISH, "char", False),
        (ENGLISH, "ja-mecab", True),
    ],
)
def test_a_tokeniser_that_was_given_is_used_and_warned_of_where_it_does_not_suit(
    text: str, given: str, warned: bool
) -> None:
    name, sentence = choose_tokenizer(shares([text]), given)
    assert name == given
    assert sentence.startswith(f"{given}, as given")
    assert (", but " in sentence) == warned
