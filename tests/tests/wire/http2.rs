//! Tests of http2.
