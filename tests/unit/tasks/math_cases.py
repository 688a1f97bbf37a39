r"""What the math task has to find and to judge: a solution or an answer, the reference, and the right verdict.

"none" is a text that states no answer. Each group says where its facts come from: public bug reports (MV is
huggingface/Math-Verify, LMEH EleutherAI/lm-evaluation-harness) or the outputs of real models. The wordings are ours.
"""

from typing import Literal, NamedTuple

Verdict = Literal["right", "wrong", "none"]


class Case(NamedTuple):
    """``text`` is what a model wrote."""

    text: str
    reference: str
    verdict: Verdict


def stated(answer: str, reference: str, verdict: Verdict) -> Case:
    """A case whose text states just this answer."""
    return Case(f"So we get \\boxed{{{answer}}}.", reference, verdict)


# How solutions state their answers.
STATED = [
    # In plain words (issue 15; gsm8k's flexible-extract, LMEH 1159).
    Case("So the answer is 10.", "10", "right"),
    Case("The answer is 10", "10", "right"),
    Case("the answer to this is 5", "5", "right"),
    Case("The correct answer would be 12 cookies.", "12", "right"),
    Case("The answer, in dollars, is: 18", "18", "right"),
    Case("The answer (rounded to the nearest cent) is $3.50.", "3.5", "right"),
    Case("3 + 4 = 7\nAnswer: 7", "7", "right"),
    Case("15 - 7 = 8\nYour answer: 8", "8", "right"),
    Case("50 % 40 = 10\nNow answer: 10", "10", "right"),
    Case("answer = 7", "7", "right"),
    Case("Final result: 4/6", "2/3", "right"),
    # Minerva's and GSM8K's own words.
    Case("Final Answer: The final answer is $7$. I hope it is correct.", "7", "right"),
    Case("Final Answer: The final answer is $28 \\%$. I hope it is correct.", "28\\%", "right"),
    Case("Final Answer: The final answer is 14{,}916. I hope it is correct. Note: it was checked.", "14916", "right"),
    Case("so the total is 12.\n#### 12", "12", "right"),
    Case("#### Step 1\nadd 3 to 4\n#### 7", "7", "right"),
    Case("#### Step 2: multiply\n\nThe answer is 9.", "9", "right"),
    Case("He sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 18", "18", "right"),
    Case("#### 1,234", "1234", "right"),
    # Bold, headings, displayed formulas (MV 76, LMEH 2318 and 3643).
    Case("Thus, the number of residents is **73**.\n\n---\n\n✅ Final Answer: **73**", "73", "right"),
    Case("437 + 2*234 = 905, and 905 = 905 ✅\n\nThus, the number of residents who own all is **73**.", "73", "right"),
    Case("**Answer:** 5", "5", "right"),
    Case("**Answer: \\$18 per day.**", "18", "right"),
    Case("**The answer is 7**", "7", "right"),
    Case("### Final Answer\n\n$7$", "7", "right"),
    Case("## Answer:\n\n42\n", "42", "right"),
    Case("**Final Answer**\n\\[\n\\boxed{12}\n\\]", "12", "right"),
    Case("Thus the answer is \\[ \\boxed{42} \\]", "42", "right"),
    Case("The answer is:\n\n\\[\n\\frac{1}{2}\n\\]\n", "1/2", "right"),
    Case("Therefore\n$$\nx = \\frac{7}{2}\n$$", "7/2", "right"),
    Case("The value is \\(\\boxed{0}\\).", "0", "right"),
    Case("\\[\\begin{aligned} x &= 3 + 4 \\\\ &= 7 \\end{aligned}\\]", "7", "right"),
    Case("It is \\fbox{7}.", "7", "right"),
    Case("It is \\boxed 7.", "7", "right"),
    Case("<answer> 7 </answer>", "7", "right"),
    # The last one counts.
    Case("Answer: 1\nno, wait\nAnswer: 2", "2", "right"),
    Case("first \\boxed{1}, and after a correction \\boxed{2}", "2", "right"),
    Case("we get \\boxed{\\frac{1}{2}}, hence\nAnswer: 3", "3", "right"),
    Case("The answer is 4. Hmm, I forgot one. The answer is 5.", "5", "right"),
    Case("The answer is \\boxed{5}. This answer is correct.", "5", "right"),
    Case("The answer is 12. Let me check the answer: 3*4 = 13?", "12", "right"),
    Case("If the answer is 5, then 2x = 10. So the answer is 6.", "6", "right"),
    Case("Mark the solution with \\boxed. It is \\boxed{8}.", "8", "right"),
    # Boxes side by side (LMEH 3644, MV 57): one answer of several parts; apart: two statements.
    Case("the roots are \\boxed{3}, \\boxed{5} and \\boxed{7}", "3, 5, 7", "right"),
    Case("x = \\boxed{3} and y = \\boxed{5}", "3, 5", "right"),
    Case("\\boxed{3} or \\boxed{3}", "3", "right"),
    Case("The side is \\boxed{35}. With that the number of sides is seen to be \\boxed{4}.", "4", "right"),
    # Thoughts and programs are drafts.
    Case("<think>the answer is 3</think>The answer is 4", "4", "right"),
    Case("so the answer is 3, maybe</think>\n\n**4**", "4", "right"),
    Case("<think>the answer is 3, but let me", "3", "none"),
    Case("```python\nprint('The answer is 5')\n```\nThe answer is 6.", "6", "right"),
    Case("```python\nprint(720 + 5)\n```\n```output\n725\n```\nThe total cost is \\(\\boxed{725}\\).", "725", "right"),
    # Other languages (MGSM's and simple-evals' words).
    Case("La respuesta es 5.", "5", "right"),
    Case("La réponse est \\(3\\).", "3", "right"),
    Case("Die Antwort lautet 42.", "42", "right"),
    Case("Antwort: 42", "42", "right"),
    Case("Ответ: 7", "7", "right"),
    Case("答案是5。", "5", "right"),
    Case("答え：12", "12", "right"),
    Case("정답은 5입니다.", "5", "right"),
    Case("उत्तर: 18", "18", "right"),
    Case("La risposta è 9.", "9", "right"),
    # No marker: the end of the text (real GSM8K outputs of two small models; MV 57's last number is not the rule).
    Case("He earned 56 dollars.", "56", "right"),
    Case("He earned 56 dollars in 7 days.", "56", "right"),
    Case("After 3 hours, she had 2.5 miles left.", "2.5", "right"),
    Case("So, Janet makes 9 * 2 = $18 every day at the market.", "18", "right"),
    Case(
        "Therefore, it would take the train 2 hours at 100 miles per hour instead of 50 miles per hour.", "2", "right"
    ),
    Case("This results in 80 hours in total.", "80", "right"),
    Case("So he needs 3/4 of a cup of sugar.", "3/4", "right"),
    Case("Therefore, Kayla picked \\(274\\) apples.", "274", "right"),
    Case("Total = 20 + 36 = 56", "56", "right"),
    Case("- Total cost = $36 + $24 = $60.", "60", "right"),
    Case("She has 5 apples left, which is 2 more than before.\n\nI hope this helps!", "5", "right"),
    Case("168 / 42 = 4\nA: 4", "4", "right"),
    Case("8 + 8 = 64\nResponse: 64", "64", "right"),
    Case("The total is 72 clips, altogether.", "72", "right"),  # helm 4337: a comma is no number
    Case("42", "42", "right"),
    # Nothing stated.
    Case("", "5", "none"),
    Case("Answer:", "5", "none"),
    Case("We can't tell.", "5", "none"),
    Case("we get \\boxed{\\frac{1}{2}", "1/2", "none"),  # cut within the box
    Case("so the total is 20 + 36 =", "56", "none"),
    Case("The rest is too hard.\nAm I right?", "5", "none"),
    # Words.
    Case("The answer is Friday.", "Friday", "right"),
    Case("Therefore, \\boxed{\\text{Evelyn}} is the fastest.", "Evelyn", "right"),
    Case("Answer: no solution", "No solution.", "right"),
    Case("The answer is Monday.", "Friday", "wrong"),
    Case("chicken: 7 * 14 = 96\nAnswer: nine6", "14", "wrong"),
]

# When two answers are the same.
NUMBERS = [
    stated("7.0", "7", "right"),
    stated("07", "7", "right"),
    stated("1,234", "1234", "right"),
    stated("9{,}500", "9500", "right"),  # opencompass 2647
    stated("\\$9{,}500.00", "9500", "right"),
    stated("10\\,000", "10,000", "right"),
    stated("1\u202f234\u00a0567", "1234567", "right"),
    stated("1 234", "1234", "right"),
    stated("8,000", "0", "wrong"),
    stated("-5", "−5", "right"),
    stated("5", "-5", "wrong"),
    stated("½", "0.5", "right"),
    stated("3½", "7/2", "right"),
    stated("3 1/2", "7/2", "right"),  # MV 34, 81
    stated("3 1/2", "2", "wrong"),
    stated("2 2/3", "2", "wrong"),
    stated("-4 4/9", "-40/9", "right"),
    stated("4 10/3", "10", "wrong"),
    stated("3\\frac{1}{2}", "3.5", "right"),
    stated("\\frac12", "\\frac{1}{2}", "right"),  # MV 35
    stated("\\dfrac{10}{9}", "10/9", "right"),
    stated("\\frac{-3}{4}", "-0.75", "right"),
    stated("0.333", "1/3", "wrong"),
    stated("0.0833333333333333", "\\frac{1}{12}", "right"),  # MV 2: a float's digits
    stated("33.3", "\\frac{100}{3}", "wrong"),
    stated("0.\\overline{3}", "1/3", "right"),
    stated("1e3", "1000", "right"),
    stated("1.5 \\times 10^{-3}", "0.0015", "right"),
    stated("2 × 10³", "2000", "right"),
    stated(".4", "0.4", "right"),
    stated("3 million", "3000000", "right"),
    stated("3 million", "3", "wrong"),
    stated("\\text{13}", "13", "right"),  # MV 37
    stated("1/0", "0", "wrong"),
    stated("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}", "wrong"),  # MV 14
    stated("\\frac{1}{2004!}", "\\frac{1}{2006!}", "wrong"),
    stated("\\frac{1}{2^{99}}", "2^{-99}", "right"),
]
PERCENT_AND_UNITS = [
    stated("50%", "50\\%", "right"),  # hendrycks/math 21
    stated("50", "50\\%", "right"),
    stated("50\\%", "0.5", "wrong"),
    stated("0.28", "28\\%", "wrong"),
    stated("28 percent", "28\\%", "right"),
    stated("4 4/9%", "40/9", "right"),
    stated("90^\\circ", "90", "right"),
    stated("90°", "90^{\\circ}", "right"),
    stated("90 degrees", "90^\\circ", "right"),
    stated("56 \\text{ dollars}", "56", "right"),
    stated("12\\text{ cm}^2", "12", "right"),
    stated("60 \\text{ km/h}", "60", "right"),
    stated("5 \\text{ m}", "5", "right"),
    stated("5m", "5", "wrong"),  # a product; math-verify takes the m for metres
    stated("5t", "5", "wrong"),
    stated("24 \\text{ eggs}", "25", "wrong"),
    stated("12:00", "1:00", "wrong"),  # MV 14
    stated("12:00", "12:00", "right"),
    stated("1010_2", "1010", "wrong"),
    stated("413_5", "413_{5}", "right"),
]
EXPRESSIONS = [
    stated("(x-1)(x+1)", "x^2 - 1", "right"),
    stated("x^2-2x+1", "(x-1)^2", "right"),
    stated("9a + 11", "11 + 9a", "right"),  # LMEH 3655
    stated("x + 1", "x + 2", "wrong"),
    stated("x + 1", "y + 1", "wrong"),
    stated("2-2p", "-2(p-1)", "right"),
    stated("\\frac{x}{7}+\\frac{2}{7}", "\\frac{x+2}{7}", "right"),  # MV 2
    stated("\\sec^2(y)", "\\tan^2(y)+1", "right"),
    stated("\\sqrt{8}", "2\\sqrt{2}", "right"),
    stated("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", "right"),
    stated("√2", "sqrt(2)", "right"),
    stated("\\sqrt2", "1.414", "wrong"),
    stated("45 + 42", "87", "right"),
    stated("45 \\times 60", "2700", "right"),
    stated("\\frac{47.67}{9}", "5.29666666666667", "right"),
    stated("2(3)", "6", "right"),
    stated("2(3)", "5", "wrong"),  # what the library reads
    stated("5 5", "10", "wrong"),
    stated("2*pi", "2\\pi", "right"),  # MV 69
    stated("pi/2", "\\dfrac{\\pi}{2}", "right"),
    stated("-1 + exp(16)", "e^{16} - 1", "right"),
    stated("14.0 + -1.0i", "14 - i", "right"),
    stated("1 - \\frac{1}{\\mathrm{e}}", "1 + \\frac{1}{\\mathrm{e}}", "wrong"),  # MV 14
    stated("\\frac{2^{2005}+1}{3 \\cdot 2^{2006}}", "\\frac{1}{3 \\cdot 2^{2006}}", "wrong"),
    stated("x**3 + 2*x", "x^3+2x", "right"),
    stated("2^10", "1024", "right"),
    stated("10^-3", "0.001", "right"),
    stated("\\sin 30^\\circ", "\\frac{1}{2}", "right"),
    stated("\\binom{5}{2}", "10", "right"),
    stated("\\log_2 8", "3", "right"),
    stated("4P", "4", "wrong"),
    stated("4P", "4p", "wrong"),  # the library reads both as 4p
    stated("2A + a", "3a", "wrong"),
    stated("\\Omega - \\omega", "0", "wrong"),
    stated("ab", "ba", "right"),
    stated("1/2X", "1/2x", "wrong"),
    stated("-x+C+\\frac{D}{x}", "A+\\frac{B}{x}-x", "wrong"),  # MV 75: other letters, another answer
    stated("\\text{Friday}", "friday", "right"),
    stated("9^{9^{9}}", "9^{9^{8}}", "wrong"),
]
SHAPES = [
    stated("(1,4.5)", "(1,\\frac{9}{2})", "right"),  # MV 2
    stated("(2,1)", "(1,2)", "wrong"),
    stated("(3,2)", "(5,1)", "wrong"),  # both the empty interval to sympy
    stated("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\frac{\\pi}{2})", "right"),  # Qwen2.5-Math 29
    stated("[0,1)", "[0,1)", "right"),
    stated("[0,9)", "[0,1)", "wrong"),
    stated("(0,9)", "[0,9)", "wrong"),
    stated("[2,5)", "[2, 5)", "right"),  # LMEH 4034
    stated("\\{1,2\\}", "\\{2,1\\}", "right"),
    stated("2, 3", "3, 2", "right"),
    stated("12\\text{ and }13", "12, 13", "right"),
    stated("19, 46, \\text{ and } 82", "21, 36, and 82", "wrong"),  # MV 14
    stated("n=2, 3, 4", "n=1, 2, 3", "wrong"),
    stated("n=2,3,4", "4, 3, 2", "right"),
    stated("D = (0, 1)", "D = (0, 1.5)", "wrong"),
    stated("x = 1 \\text{ or } x = -2", "-2, 1", "right"),  # ms-swift 4541
    stated("x = 1, y = 2", "x = 2, y = 1", "wrong"),
    stated("y = 2, x = 1", "x = 1, y = 2", "right"),
    stated("\\pm 2021", "2021", "wrong"),  # MV 14
    stated("\\pm 3", "3, -3", "right"),
    stated("2 \\pm \\sqrt{3}", "2-\\sqrt{3}, 2+\\sqrt{3}", "right"),
    stated("1,1", "1", "wrong"),
    stated("0 < x < 12.5", "(0, 12.5)", "right"),  # MV 10, 71: in both directions
    stated("(0, 12.5)", "0 < x < 12.5", "right"),
    stated("m \\geq \\sqrt{2}", "m \\in [\\sqrt{2}, +\\infty)", "right"),  # MV 25
    stated("m \\in [\\sqrt{2}, +\\infty)", "m \\geq \\sqrt{2}", "right"),
    stated("x \\in [-2,7]", "[-2,7]", "right"),
    stated("[-2,7]", "-2 \\le x \\le 7", "right"),
    stated("3 > x", "x < 3", "right"),
    stated("x < 3", "x \\le 3", "wrong"),
    stated("x<1 \\text{ or } x>3", "(-\\infty,1)\\cup(3,\\infty)", "right"),
    stated("(3,\\infty)\\cup(-\\infty,1)", "(-\\infty,1)\\cup(3,\\infty)", "right"),
    stated("2x + 1 > 7", "x > 3", "right"),
    stated("-34x-45y+20z-100=0", "34x+45y-20z+100=0", "right"),  # MV 2
    stated("3*x-1*y+13=0", "3x + 4y + 14=0", "wrong"),  # MV 60
    stated("y = -\\frac{1}{2}x + \\frac{3}{4}", "2x+4y-3=0", "right"),  # MV 26
    stated("2+3 = 5", "5", "right"),
    stated("2+3 = 5", "1+1 = 2", "wrong"),  # both True to sympy
    stated("x = 5", "5", "right"),
    stated("5", "x = 5", "right"),
    stated("x = 1", "y = 1", "wrong"),
    stated("f(x) = 2x+3", "3 + 2x", "right"),
    stated("x+y = 5", "5", "wrong"),
    stated("\\sqrt{2} \\approx 1.414", "\\sqrt{2}", "right"),
    stated("1, 2, \\ldots, n", "1, 3, 5, \\ldots, 2n-1", "wrong"),  # MV 14
    stated("1:2:3", "1:4:9", "wrong"),
    stated("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}", "right"),
    stated("\\begin{pmatrix}1\\\\-\\frac{7}{4}\\end{pmatrix}", "\\begin{pmatrix}1\\\\-1.75\\\\\\end{pmatrix}", "right"),
    stated("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}", "wrong"),
    stated("(-\\infty, 2)", "(-\\infty, 3)", "wrong"),
    stated("\\emptyset", "\\varnothing", "right"),
    stated("\\text{all real numbers}", "\\mathbb{R}", "wrong"),  # doubt makes answers different
]

CASES = [*STATED, *NUMBERS, *PERCENT_AND_UNITS, *EXPRESSIONS, *SHAPES]
