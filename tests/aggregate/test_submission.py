import numpy as np
import pandas as pd
import pytest

from aggregate.config import Format
from aggregate.submission.write import check_row_ids, check_submission, label_table
from hpa.errors import UserError
from hpa.vocabulary import HPA28


@pytest.mark.parametrize(("form", "header"), [("kaggle2018", ["Id", "Predicted"]), ("jovian", ["Image", "Label"])])
def test_one_row_per_image(form: Format, header: list[str]) -> None:
    predictions = np.zeros((3, 28), bool)
    predictions[0, [16, 0]] = predictions[1, 27] = True
    table = label_table(["b", "a", "c"], predictions, HPA28, form)
    assert list(table.columns) == header
    assert table.to_numpy().tolist() == [["b", "0 16"], ["a", "27"], ["c", ""]]
    check_submission(table, ["b", "a", "c"], HPA28, form, "the sample")


@pytest.mark.parametrize(
    ("found", "wanted", "sentence"),
    [
        (["a", "b"], ["a", "b", "c"], "a row for each id of the sample, found none for 'c' \\(1 missing\\)"),
        (["a", "b", "x"], ["a", "b"], "only ids of the sample, found 'x'"),
        (["b", "a"], ["a", "b"], "the order of the sample, found 'b' in place of 'a' \\(row 1\\)"),
        (["a", "a"], ["a"], "once in the submission, found 'a' twice"),
        (["a"], ["a", "a"], "once in the sample, found 'a' twice"),
    ],
)
def test_mismatches_with_the_sample_are_named(found: list[str], wanted: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_row_ids(found, wanted, "the sample")


@pytest.mark.parametrize("text", ["0 0.5 m 18 0.5", "19 0.5 m", "x 0.5 m", "0 1.5 m", "0 -0.1 m", "0 nan m"])
def test_wrong_entries_of_cells(text: str) -> None:
    columns = {"ID": ["a", "b"], "ImageWidth": 5, "ImageHeight": 5}
    good = pd.DataFrame(columns | {"PredictionString": ["", "0 0 m 18 1 m"]})
    check_submission(good, ["a", "b"], HPA28, "kaggle2021", "the sample")
    wrong = pd.DataFrame(columns | {"PredictionString": ["", text]})
    with pytest.raises(UserError, match=r"a class 0\.\.18, a confidence within 0\.\.1 .* of image b"):
        check_submission(wrong, ["a", "b"], HPA28, "kaggle2021", "the sample")


def test_wrong_labels_and_columns() -> None:
    with pytest.raises(UserError, match=r"labels 0..27, found '28'"):
        check_submission(pd.DataFrame({"Id": ["a"], "Predicted": ["3 28"]}), ["a"], HPA28, "kaggle2018", "the sample")
    with pytest.raises(UserError, match="columns Id,Predicted, found Image,Label"):
        check_submission(pd.DataFrame({"Image": ["a"], "Label": ["3"]}), ["a"], HPA28, "kaggle2018", "the sample")
