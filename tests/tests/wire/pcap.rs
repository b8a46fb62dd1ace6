//! Tests of pcap.
