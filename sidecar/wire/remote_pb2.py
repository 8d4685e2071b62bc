"""Generated from proto/remote.proto by ``python -m proto.generate``: do not edit."""

from google.protobuf import descriptor_pool, message_factory

from sidecar.wire.types_pb2 import _POOL

_POOL.AddSerializedFile(
    b'\n\x19sidecar/wire/remote.pr'
    b'oto\x12\nprometheus\x1a\x18sidecar'
    b'/wire/types.proto"n\n\x0cWri'
    b'teRequest\x12*\n\ntimeseries\x18'
    b'\x01 \x03(\x0b2\x16.prometheus.TimeS'
    b'eries\x12,\n\x08metadata\x18\x03 \x03(\x0b2'
    b'\x1a.prometheus.MetricMetad'
    b'ataJ\x04\x08\x02\x10\x03"\xae\x01\n\x0bReadReques'
    b't\x12"\n\x07queries\x18\x01 \x03(\x0b2\x11.pro'
    b'metheus.Query\x12E\n\x17accepte'
    b'd_response_types\x18\x02 \x03(\x0e2$'
    b'.prometheus.ReadRequest.'
    b'ResponseType"4\n\x0cResponse'
    b'Type\x12\x0b\n\x07SAMPLES\x10\x00\x12\x17\n\x13STR'
    b'EAMED_XOR_CHUNKS\x10\x01"\x8f\x01\n\x05Q'
    b'uery\x12\x1a\n\x12start_timestamp_'
    b'ms\x18\x01 \x01(\x03\x12\x18\n\x10end_timestam'
    b'p_ms\x18\x02 \x01(\x03\x12*\n\x08matchers\x18\x03'
    b' \x03(\x0b2\x18.prometheus.LabelM'
    b'atcher\x12$\n\x05hints\x18\x04 \x01(\x0b2\x15.'
    b'prometheus.ReadHints"8\n\x0c'
    b'ReadResponse\x12(\n\x07results\x18'
    b'\x01 \x03(\x0b2\x17.prometheus.Query'
    b'Result"9\n\x0bQueryResult\x12*\n'
    b'\ntimeseries\x18\x01 \x03(\x0b2\x16.prom'
    b'etheus.TimeSeries"]\n\x13Chu'
    b'nkedReadResponse\x121\n\x0echun'
    b'ked_series\x18\x01 \x03(\x0b2\x19.prome'
    b'theus.ChunkedSeries\x12\x13\n\x0bq'
    b'uery_index\x18\x02 \x01(\x03b\x06proto3'
)
DESCRIPTOR = _POOL.FindFileByName("sidecar/wire/remote.proto")

WriteRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["WriteRequest"])
ReadRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ReadRequest"])
Query = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Query"])
ReadResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ReadResponse"])
QueryResult = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["QueryResult"])
ChunkedReadResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ChunkedReadResponse"])
