"""Bytes between the processes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from sidecar.learning.payload import PREFIX, Message, decode, encode, sizes


def sent(message: Message) -> Message:
    stream = b"".join(bytes(buffer) for buffer in encode(message))
    header, body = sizes(stream[: PREFIX.size])
    assert len(stream) == PREFIX.size + header + body
    middle = PREFIX.size + header
    return decode(stream[PREFIX.size : middle], bytearray(stream[middle:]))


DTYPES = st.sampled_from(["<f8", "<f4", "<i8", "|b1", "<U5", "|S7", ">f8", "|u1"])


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        arrays_of.arrays(DTYPES, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=4,
    )
)
def test_arrays_of_any_shape_arrive_as_they_were(arrays: dict[str, np.ndarray]) -> None:
    got = sent(Message("train", {"a": 1}, arrays))
    assert got.kind == "train"
    assert got.meta == {"a": 1}
    assert set(got.arrays) == set(arrays)
    for name, array in arrays.items():
        assert got.arrays[name].dtype == array.dtype
        assert got.arrays[name].tobytes() == array.tobytes()
        assert got.arrays[name].shape == array.shape


def test_arrays_that_are_not_contiguous_arrive_too() -> None:
    array = np.arange(24.0).reshape(4, 6)[::2, ::3].T
    np.testing.assert_array_equal(sent(Message("m", {}, {"a": array})).arrays["a"], array)


def test_objects_are_neither_sent_nor_accepted() -> None:
    with pytest.raises(ValueError, match="'a' of type object"):
        encode(Message("m", {}, {"a": np.array([object()])}))
    header = json.dumps(["m", {}, [["a", "|O", [1]]]]).encode()
    with pytest.raises(ValueError, match="not accepted"):
        decode(header, bytearray(8))


def test_settings_that_json_cannot_say_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="settings cannot be sent to a worker"):
        encode(Message("m", {"model": object()}, {}))


def test_an_announcement_of_more_than_we_send_is_refused_before_it_is_received() -> None:
    for header, body in ((1 << 30, 0), (10, 1 << 40)):
        with pytest.raises(ValueError, match="larger than any of ours"):
            sizes(PREFIX.pack(header, body))


def test_a_body_that_is_too_short_is_refused() -> None:
    header = json.dumps(["m", {}, [["a", "<f8", [4]]]]).encode()
    with pytest.raises(ValueError, match="buffer"):
        decode(header, bytearray(8))
