"""Generated from proto/types.proto by ``python -m proto.generate``: do not edit."""

from google.protobuf import descriptor_pool, message_factory

_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(
    b'\n\x18sidecar/wire/types.pro'
    b'to\x12\nprometheus"\xf8\x01\n\x0eMetri'
    b'cMetadata\x123\n\x04type\x18\x01 \x01(\x0e2'
    b'%.prometheus.MetricMetad'
    b'ata.MetricType\x12\x1a\n\x12metric'
    b'_family_name\x18\x02 \x01(\t\x12\x0c\n\x04he'
    b'lp\x18\x04 \x01(\t\x12\x0c\n\x04unit\x18\x05 \x01(\t"y'
    b'\n\nMetricType\x12\x0b\n\x07UNKNOWN\x10'
    b'\x00\x12\x0b\n\x07COUNTER\x10\x01\x12\t\n\x05GAUGE\x10'
    b'\x02\x12\r\n\tHISTOGRAM\x10\x03\x12\x12\n\x0eGAUG'
    b'EHISTOGRAM\x10\x04\x12\x0b\n\x07SUMMARY\x10'
    b'\x05\x12\x08\n\x04INFO\x10\x06\x12\x0c\n\x08STATESET\x10'
    b'\x07"*\n\x06Sample\x12\r\n\x05value\x18\x01 \x01'
    b'(\x01\x12\x11\n\ttimestamp\x18\x02 \x01(\x03"O\n'
    b'\x08Exemplar\x12!\n\x06labels\x18\x01 \x03('
    b'\x0b2\x11.prometheus.Label\x12\r\n\x05'
    b'value\x18\x02 \x01(\x01\x12\x11\n\ttimestamp'
    b'\x18\x03 \x01(\x03"\x1e\n\tHistogram\x12\x11\n\tt'
    b'imestamp\x18\x0f \x01(\x03"$\n\x05Label\x12'
    b'\x0c\n\x04name\x18\x01 \x01(\t\x12\r\n\x05value\x18\x02'
    b' \x01(\t"\xa8\x01\n\nTimeSeries\x12!\n\x06l'
    b'abels\x18\x01 \x03(\x0b2\x11.prometheus'
    b'.Label\x12#\n\x07samples\x18\x02 \x03(\x0b2'
    b"\x12.prometheus.Sample\x12'\n\te"
    b'xemplars\x18\x03 \x03(\x0b2\x14.prometh'
    b'eus.Exemplar\x12)\n\nhistogra'
    b'ms\x18\x04 \x03(\x0b2\x15.prometheus.Hi'
    b'stogram"\x82\x01\n\x0cLabelMatcher'
    b'\x12+\n\x04type\x18\x01 \x01(\x0e2\x1d.prometh'
    b'eus.LabelMatcher.Type\x12\x0c\n'
    b'\x04name\x18\x02 \x01(\t\x12\r\n\x05value\x18\x03 \x01'
    b'(\t"(\n\x04Type\x12\x06\n\x02EQ\x10\x00\x12\x07\n\x03NE'
    b'Q\x10\x01\x12\x06\n\x02RE\x10\x02\x12\x07\n\x03NRE\x10\x03"|\n\t'
    b'ReadHints\x12\x0f\n\x07step_ms\x18\x01 \x01'
    b'(\x03\x12\x0c\n\x04func\x18\x02 \x01(\t\x12\x10\n\x08star'
    b't_ms\x18\x03 \x01(\x03\x12\x0e\n\x06end_ms\x18\x04 \x01'
    b'(\x03\x12\x10\n\x08grouping\x18\x05 \x03(\t\x12\n\n\x02'
    b'by\x18\x06 \x01(\x08\x12\x10\n\x08range_ms\x18\x07 \x01'
    b'(\x03"\xaf\x01\n\x05Chunk\x12\x13\n\x0bmin_time'
    b'_ms\x18\x01 \x01(\x03\x12\x13\n\x0bmax_time_ms'
    b'\x18\x02 \x01(\x03\x12(\n\x04type\x18\x03 \x01(\x0e2\x1a.p'
    b'rometheus.Chunk.Encoding'
    b'\x12\x0c\n\x04data\x18\x04 \x01(\x0c"D\n\x08Encodi'
    b'ng\x12\x0b\n\x07UNKNOWN\x10\x00\x12\x07\n\x03XOR\x10\x01'
    b'\x12\r\n\tHISTOGRAM\x10\x02\x12\x13\n\x0fFLOAT'
    b'_HISTOGRAM\x10\x03"U\n\rChunkedS'
    b'eries\x12!\n\x06labels\x18\x01 \x03(\x0b2\x11.'
    b'prometheus.Label\x12!\n\x06chun'
    b'ks\x18\x02 \x03(\x0b2\x11.prometheus.Ch'
    b'unkb\x06proto3'
)
DESCRIPTOR = _POOL.FindFileByName("sidecar/wire/types.proto")

MetricMetadata = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["MetricMetadata"])
Sample = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Sample"])
Exemplar = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Exemplar"])
Histogram = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Histogram"])
Label = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Label"])
TimeSeries = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["TimeSeries"])
LabelMatcher = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["LabelMatcher"])
ReadHints = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ReadHints"])
Chunk = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Chunk"])
ChunkedSeries = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ChunkedSeries"])
