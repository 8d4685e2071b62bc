"""Generated from proto/write_v2.proto by ``python -m proto.generate``: do not edit."""

from google.protobuf import descriptor_pool, message_factory

_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(
    b'\n\x1bsidecar/wire/write_v2.'
    b'proto\x12\x16io.prometheus.wri'
    b'te.v2"X\n\x07Request\x12\x0f\n\x07symb'
    b'ols\x18\x04 \x03(\t\x126\n\ntimeseries\x18'
    b'\x05 \x03(\x0b2".io.prometheus.wr'
    b'ite.v2.TimeSeriesJ\x04\x08\x01\x10\x04"'
    b'\xf8\x01\n\nTimeSeries\x12\x13\n\x0blabels'
    b'_refs\x18\x01 \x03(\r\x12/\n\x07samples\x18\x02'
    b' \x03(\x0b2\x1e.io.prometheus.wri'
    b'te.v2.Sample\x125\n\nhistogra'
    b'ms\x18\x03 \x03(\x0b2!.io.prometheus'
    b'.write.v2.Histogram\x123\n\te'
    b'xemplars\x18\x04 \x03(\x0b2 .io.prom'
    b'etheus.write.v2.Exemplar'
    b'\x122\n\x08metadata\x18\x05 \x01(\x0b2 .io.'
    b'prometheus.write.v2.Meta'
    b'dataJ\x04\x08\x06\x10\x07"A\n\x08Exemplar\x12\x13'
    b'\n\x0blabels_refs\x18\x01 \x03(\r\x12\r\n\x05v'
    b'alue\x18\x02 \x01(\x01\x12\x11\n\ttimestamp\x18'
    b'\x03 \x01(\x03"C\n\x06Sample\x12\r\n\x05value'
    b'\x18\x01 \x01(\x01\x12\x11\n\ttimestamp\x18\x02 \x01('
    b'\x03\x12\x17\n\x0fstart_timestamp\x18\x03 \x01'
    b'(\x03"\xc9\x02\n\x08Metadata\x129\n\x04type\x18'
    b'\x01 \x01(\x0e2+.io.prometheus.wr'
    b'ite.v2.Metadata.MetricTy'
    b'pe\x12\x10\n\x08help_ref\x18\x03 \x01(\r\x12\x10\n\x08'
    b'unit_ref\x18\x04 \x01(\r"\xdd\x01\n\nMetri'
    b'cType\x12\x1b\n\x17METRIC_TYPE_UNS'
    b'PECIFIED\x10\x00\x12\x17\n\x13METRIC_TYP'
    b'E_COUNTER\x10\x01\x12\x15\n\x11METRIC_TY'
    b'PE_GAUGE\x10\x02\x12\x19\n\x15METRIC_TYP'
    b'E_HISTOGRAM\x10\x03\x12\x1e\n\x1aMETRIC_'
    b'TYPE_GAUGEHISTOGRAM\x10\x04\x12\x17\n'
    b'\x13METRIC_TYPE_SUMMARY\x10\x05\x12\x14'
    b'\n\x10METRIC_TYPE_INFO\x10\x06\x12\x18\n\x14'
    b'METRIC_TYPE_STATESET\x10\x07"\x1e'
    b'\n\tHistogram\x12\x11\n\ttimestamp'
    b'\x18\x0f \x01(\x03b\x06proto3'
)
DESCRIPTOR = _POOL.FindFileByName("sidecar/wire/write_v2.proto")

Request = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Request"])
TimeSeries = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["TimeSeries"])
Exemplar = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Exemplar"])
Sample = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Sample"])
Metadata = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Metadata"])
Histogram = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Histogram"])
