import pytest

from vpd.errors import UsageError
from vpd.prediction_jobs.job import Share, parse_share


def array(**values: str) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in values.items()}


def test_shares_count_from_one():
    assert parse_share("3/16", {}) == Share(3, 16)
    assert (str(Share(3, 16)), Share(3, 16).manifest) == ("3/16", "3-of-16.jsonl")
    assert parse_share("1/1", {}) == Share(1, 1)


def test_every_chunk_has_one_share():
    shares = [[place for place in range(10) if Share(number, 4).has(place)] for number in range(1, 5)]
    assert shares == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "", "1/1234567890", "Slurm"])
def test_wrong_shares(text: str):
    with pytest.raises(UsageError, match=f"^--shard {text}: give the number .* counted from 1, such as 1/8 to 8/8"):
        parse_share(text, {})


@pytest.mark.parametrize(("first", "last", "member"), [("0", "15", "2"), ("1", "16", "3"), ("7", "22", "9")])
def test_a_job_array_says_its_share(first: str, last: str, member: str):
    assert parse_share("slurm", array(ID=member, MIN=first, MAX=last, COUNT="16")) == Share(3, 16)


@pytest.mark.parametrize("environment", [{}, array(ID="3"), array(ID="3", MIN="1", MAX="x", COUNT="16")])
def test_no_job_array(environment: dict[str, str]):
    with pytest.raises(UsageError, match=r"job array .*SLURM_ARRAY_TASK_ID.*--shard 3/16"):
        parse_share("slurm", environment)


@pytest.mark.parametrize(
    "environment", [array(ID="3", MIN="3", MAX="7", COUNT="2"), array(ID="9", MIN="1", MAX="2", COUNT="2")]
)
def test_a_job_array_with_gaps(environment: dict[str, str]):
    with pytest.raises(UsageError, match=r"counts without gaps; this one has 2 members .*--array=1-2"):
        parse_share("slurm", environment)
