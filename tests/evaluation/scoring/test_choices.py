"""Extracting the letter from a reply: replies of people and models, and texts that are not answers."""

import time

import pytest
from hypothesis import given, settings, strategies as st

from tinyvid.evaluation.scoring.choices import extract_choice

ANIMALS = {"A": "a cat", "B": "the red bird", "C": "the dog", "D": "a cow"}
ACTIONS = {"A": "running", "B": "a man throws a ball", "C": "dancing", "D": "None of the above", "E": "sleeping"}
YES = {"A": "Yes", "B": "No"}
TRACE = (
    "Let me look at each option. A. a cat: there is no cat in the video. B. the red bird: it only appears at the end. "
    "D. a cow could be far away, but I know that it is not asked for.\n"
)

REPLIES = [
    # the letter alone
    ("C", "C"),
    ("c", "C"),
    ("(C)", "C"),
    ("(c)", "C"),
    ("C.", "C"),
    (" C \n", "C"),
    ("[C]", "C"),
    ("'C'", "C"),
    ("C)", "C"),
    ("C!", "C"),
    ("**C**", "C"),
    ("`C`", "C"),
    ("__C__", "C"),
    ("# C", "C"),
    ("$C$", "C"),
    ("<b>C</b>", "C"),
    ("\\boxed{C}", "C"),
    ("$\\boxed{\\text{C}}$", "C"),
    ("Ｃ", "C"),
    ("（Ｃ）", "C"),
    ("Ⓒ", "C"),
    ("C 👍", "C"),
    # the letter first
    ("C. the dog", "C"),
    ("C) the dog", "C"),
    ("(C) the dog", "C"),
    ("c. the dog", "C"),
    ("C: the dog", "C"),
    ("C - the dog", "C"),
    ("C the dog", "C"),
    ("**C. the dog**", "C"),
    ("C\n\nThe video shows a dog, so A and B are wrong.", "C"),
    ("C. The dog runs in front of (A) a fence.", "C"),
    ("B. The video shows a sorting process", "B"),
    # a statement of the answer
    ("Answer: C", "C"),
    ("Best answer: C", "C"),
    ("Best option: (C", "C"),
    ("Best option:(C)", "C"),
    ("Final answer - C", "C"),
    ("Option C", "C"),
    ("answer: c", "C"),
    ('{"answer": "C"}', "C"),
    ("**Answer:** C", "C"),
    ("**Answer**: **(C)**", "C"),
    ("### Answer\nC", "C"),
    ("Answer:\n\nC. the dog", "C"),
    ("The answer is C.", "C"),
    ("The answer is: **(C)**.", "C"),
    ("Based on the video, the answer is C.", "C"),
    ("The correct answer is (C) because A and B are wrong.", "C"),
    ("The correct option is C, not B.", "C"),
    ("The answer is most likely option C.", "C"),
    ("The answer to the question is C", "C"),
    ("My answer would be C.", "C"),
    ("I would go with C.", "C"),
    ("I choose option (C)", "C"),
    ("C is the correct answer.", "C"),
    ("Option C is correct because the dog moves.", "C"),
    ("A and B can be excluded. Therefore, C.", "C"),
    ("It's C.", "C"),
    ("The answer is A", "A"),
    ("The answer is A because the cat jumps.", "A"),
    ("The answer is the dog.", "C"),
    ("Answer: The red bird", "B"),
    ("The correct answer is: C the dog", "C"),
    ("There is no doubt that the answer is C.", "C"),
    ("No, the answer is C.", "C"),
    ("<answer>C</answer>", "C"),
    ("<answer> (C) the dog </answer>", "C"),
    ("Therefore, the final answer is: $C$", "C"),
    # the end beats the beginning
    ("The answer is A. Wait, the bird is red. The answer is B.", "B"),
    ("A. is tempting, but the answer is C", "C"),
    ("I first thought that the answer is A.\nC", "C"),
    ("The answer is (A)? No, it is (C).", "C"),
    (TRACE + "The answer is C.", "C"),
    (TRACE + "Answer: (C) the dog", "C"),
    (TRACE + "C", "C"),
    (TRACE + "**C. the dog**", "C"),
    (f"<think>{TRACE}The answer is A.</think>C", "C"),
    (f"{TRACE}The answer is A.</think>\n\nThe answer is C.", "C"),
    ("C\n<think>The answer is A.</think>", "C"),
    ("<think>The answer is A.</think><answer>C</answer>", "C"),
    ("Question: what is it? A. a cat B. the red bird **Reasoning:** it barks. **Answer:** C", "C"),
    # the text of an option
    ("the dog", "C"),
    ("The dog.", "C"),
    ("dog", "C"),
    ("A dog", "C"),
    ("**the DOG**", "C"),
    ("a cat", "A"),
    ("A cow.", "D"),
    # other languages
    ("答案是C", "C"),
    ("正确答案是 (C)。", "C"),
    ("答案：C", "C"),
    ("选C", "C"),
    ("这个视频里有一只狗，因此选择C。", "C"),
    ("答えはCです。", "C"),
    ("정답은 C입니다.", "C"),
    ("La respuesta correcta es C.", "C"),
    ("La réponse est C", "C"),
    ("Die richtige Antwort ist (C).", "C"),
    ("A resposta correta é C", "C"),
    ("Ответ: C", "C"),
    ("Đáp án là C", "C"),
    ("Cevap: C", "C"),
    ("Jawabannya adalah C", "C"),
    ("الإجابة هي C", "C"),
    # unparsed: no statement, several statements, or a letter that is not an option
    ("", None),
    (" \n\t", None),
    ("?", None),
    ("1", None),
    ("E", None),
    ("The answer is E", None),
    ("(E) something else", None),
    ("A man throws C", None),
    ("None of A, B: C", None),
    ("A man is dancing in the street.", None),
    ("I see a robot", None),
    ("I don't know.", None),
    ("The answer is unknown.", None),
    ("The answer is a dog that runs", None),
    ("ABCD", None),
    ("A, B", None),
    ("A or C", None),
    ("A/C", None),
    ("The answer is A or C.", None),
    ("The answer is (A) and (C)", None),
    ("The answer is either A or C.", None),
    ("The answer is not C.", None),
    ("I don't think the answer is C.", None),
    ("I don't think that C is correct.", None),
    ("Neither A nor B is correct.", None),
    ("A or B is correct.", None),
    ("If the answer is A then the cat jumps", None),
    ("(A) is wrong", None),
    ("A and B are wrong", None),
    ("B is wrong", None),
    ("A. a cat B. the red bird C. the dog D. a cow", None),
    ("A. a cat\nB. the red bird\nC. the dog\nD. a cow", None),
    (TRACE, None),
    ("<think>The answer is C", None),
    ("<think>The answer is C</think>", None),
    ("<think>C", None),
    ("Let's look at each option: A) a cat - no. B) the red bird - no.", None),
    ("At 9 A.M. the dog runs", None),
    ("Vitamin C. It is healthy", None),
    ("C'est la vie", None),
    ("Ответ: В", None),  # a Cyrillic letter that looks like an option
    ("The cat and the dog", None),
]


@pytest.mark.parametrize(("reply", "letter"), REPLIES, ids=[repr(reply[:40]) for reply, _ in REPLIES])
def test_reads_the_letter_or_nothing(reply, letter):
    assert extract_choice(reply, ANIMALS) == letter


@pytest.mark.parametrize(
    ("reply", "options", "letter"),
    [
        ("The answer is A man throws a ball.", ACTIONS, "B"),
        ("The answer is a man throws a ball", ACTIONS, "B"),
        ("None of the above", ACTIONS, "D"),
        ("The answer is none of the above.", ACTIONS, "D"),
        ("E", ACTIONS, "E"),
        ("The answer is F", ACTIONS, None),
        ("No", YES, "B"),
        ("No.", YES, "B"),
        ("No, because it stands still.", YES, "B"),
        ("Yes, it does.", YES, "A"),
        ("I know that it moves.", YES, None),
        ("I do not know", YES, None),
        ("Not at all sure", YES, None),
        ("None of them", YES, None),
        ("3", {"A": "3", "B": "4"}, "A"),
        ("3.", {"A": "3", "B": "3.5"}, "A"),
        ("-3", {"A": "3", "B": "-3"}, "B"),
        ("The answer is 4.", {"A": "3", "B": "4"}, "B"),
        ("B", {"A": "B", "B": "A"}, "B"),
        ("dog", {"A": "dog", "B": "Dog"}, None),
        ("the", {"A": "the", "B": "a"}, "A"),
        ("C", {"A": "x", "B": "y"}, None),
        ("c", {"a": "x", "b": "y", "c": "z"}, "c"),
        ("F", {letter: letter * 3 for letter in "ABCDEF"}, "F"),
        ("The answer is I.", {letter: letter * 3 for letter in "ABCDEFGHI"}, "I"),
        ("I think that the answer is B.", {letter: letter * 3 for letter in "ABCDEFGHI"}, "B"),
        ("I am not sure", {letter: letter * 3 for letter in "ABCDEFGHI"}, None),
        ("C", {}, None),
        (None, ANIMALS, None),
    ],
)
def test_reads_only_letters_of_the_options(reply, options, letter):
    assert extract_choice(reply, options) == letter


CUBE = {"A": "a cat", "B": "a blue cube", "C": "the dog", "D": "a cow"}
LISTS_AND_OPTIONS = [
    ("A\nB\nC\nD", None),
    ("A\nB", None),
    ("A\nC", None),
    ("C\nA", None),
    ("A\n\nB", None),
    ("A\nB\nC", None),
    ("- A\n- B", None),
    ("* A\n* B", None),
    ("A.\nB.", None),
    ("(A)\n(B)", None),
    ("a\nb", None),
    ("A B C D", None),
    ("A B", None),
    ("A; B", None),
    ("A\nB\nC\nD\n", None),
    ("Options:\nA\nB\nC\nD", None),
    ("1. A\n2. B", None),
    ("Option A\nOption B", None),
    ("Option A\nOption B\nOption C", None),
    ("A: a cat\nC: the dog", None),
    ("A. a cat\nC. the dog", None),
    ("A a cat\nB a blue cube", None),
    ("A - a cat\nB - a blue cube", None),
    ("D\nC\nB\nA", None),
    ("A,\nB,\nC", None),
    ("**A**\n**B**", None),
    ("A\nB\nC\nD\nE", None),
    ("(A)\n(C)\n", None),
    ("A?\nB?", None),
    ("A\nOption B", None),
    ("Option A\nB", None),
    ("a cat\nthe dog", None),
    ("A|B", None),
    ("A B\nC D", None),
    ("Answer A\nAnswer B", None),
    ("B\nB", "B"),
    ("B\n\nB.", "B"),
    ("B\n(B)", "B"),
    ("B\nB. a blue cube", "B"),
    ("(B)\na blue cube", "B"),
    ("B\na blue cube", "B"),
    ("A\nB\nC\nD\n\nThe answer is B.", "B"),
    ("A\nB\nC\nD\nAnswer: B", "B"),
    ("Options: A, B, C, D.\nB", "B"),
    ("I first thought that the answer is A.\nC", "C"),
    ("A. is tempting\nC", "C"),
    ("Answer: A\nB\nC\nD", None),
    ("B.a blue cube", "B"),
    ("B:a blue cube", "B"),
    ("B.a cat", None),
    ("Option (B), a blue cube", "B"),
    ("Option B, a blue cube", "B"),
    ("Option (B), a blue cube.", "B"),
    ("Option B: a blue cube", "B"),
    ("Option (B): a blue cube", "B"),
    ("Option (B) a blue cube", "B"),
    ("Option B a blue cube", "B"),
    ("Option B - a blue cube", "B"),
    ("Option (B).", "B"),
    ("Option (B)", "B"),
    ("option b, a blue cube", "B"),
    ("Option (B), the cube that is blue.", "B"),
    ("Option B. The cube is blue.", "B"),
    ("The option (B), a blue cube", "B"),
    ("Choice (B), a blue cube", "B"),
    ("Answer (B), a blue cube", "B"),
    ("Choice B: a blue cube", "B"),
    ('Option "B", a blue cube', "B"),
    ("**Option (B)**, a blue cube", "B"),
    ("Option [B], a blue cube", "B"),
    ("(B), a blue cube", "B"),
    ("B, a blue cube", "B"),
    ("The correct option, (B), shows a blue cube.", None),
    ("Option (B), a blue cube, because it moves.", "B"),
    ("Option (B), because it moves.", "B"),
    ("Option (B), as the cube is blue", "B"),
    ("Option (B) because it moves.", "B"),
    ("Option B because it moves.", "B"),
    ("My choice is option (B), a blue cube", "B"),
    ("I choose option (B), a blue cube", "B"),
    ("It is option (B), a blue cube", None),
    ("Option (A), a cat, is wrong.", None),
    ("Option (A) is wrong.", None),
    ("Option A is wrong", None),
    ("(A), a cat, is wrong.", None),
    ("A, a cat, is wrong", None),
    ("Option (A), a cat, is not in the video; option (B), a blue cube, is.", None),
    ("Option (A), (B) and (C) are wrong", None),
    ("Option A, B", None),
    ("Option A or B", None),
    ("Option (A) or option (B)", None),
    ("Option (A) and (C)", None),
    ("Option A shows a cat, option B a cube", None),
    ("Option (A), a cat\nOption (B), a blue cube", None),
    ("Option (A), a cat, option (B), a blue cube", None),
    ("Option A: a cat\nOption B: a blue cube\nOption C: the dog\nOption D: a cow", None),
    ("Option (A), a cat, could be it, but no cat is there.", None),
    ("Not option (B), a blue cube", None),
    ("Option (E), a horse", None),
    ("Option (A)?", None),
    ("Option (A), maybe?", None),
    ("Option (A), a cat, or option (C), the dog", None),
    ("Option (A), a blue cube", None),
    ("Option (A) can be ruled out", None),
    ("Option (A), which is wrong", None),
    ("Option A, unlike B, shows it", None),
    ("Options (A) and (B)", None),
    ("Options A, B", None),
    ("Option (A), unlikely", None),
    ("Option A, no.", None),
    ("Option (A) - no. Option (B) - yes.", None),
    ("Option (A): no cat is visible.", None),
    ("Option (A): incorrect", None),
    ("Option A: incorrect. Option B: correct.", None),
    ("Option A: The video shows no cat.", None),
    ("A: no", None),
    ("A: incorrect. B: correct.", None),
    ("(A) No. (B) Yes.", None),
]


@pytest.mark.parametrize(("reply", "letter"), LISTS_AND_OPTIONS, ids=repr)
def test_lists_of_letters_and_options_with_a_reason(reply, letter):
    assert extract_choice(reply, CUBE) == letter


def test_there_are_enough_replies():
    assert len(REPLIES) >= 80


PIECES = st.sampled_from(
    [
        *("A", "B", "c", "(D)", "E.", "answer", "is", ":", "the", "not", "option", "\n", " ", "*", "\\boxed{", "}"),
        *("<think>", "</think>", "<answer>", "答案", "是", "or", ",", ".", "because", "a cat", "correct", "choose"),
        *("'", "_", "#", "İ"),
    ]
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join)),
    st.dictionaries(st.sampled_from("ABCDEF") | st.text(), st.text(), max_size=6),
)
def test_never_raises_and_returns_only_options(reply, options):
    letter = extract_choice(reply, options)
    assert letter is None or letter in options
    assert letter == extract_choice(reply, options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["a ", "the ", "A. ", "(", "answer is ", "\n", " \n", "<think>", "_", "option ", "A or ", "!", "\\boxed{", "答案"],
)
def test_a_repetitive_reply_is_read_in_linear_time(piece):
    def seconds(length):
        start = time.process_time()
        extract_choice(piece * (length // len(piece)) + "x", ANIMALS)
        return time.process_time() - start

    assert seconds(40_000) < 10 * max(seconds(10_000), 0.05)  # in quadratic time, 16 times as long
