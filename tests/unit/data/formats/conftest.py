import pytest

from posttrain.data.records import RowError


@pytest.fixture
def reason():
    """Why a converter refuses a row."""

    def find(convert, *arguments):
        with pytest.raises(RowError) as caught:
            convert(*arguments)
        return caught.value.reason

    return find
