//! Tests of resp.
