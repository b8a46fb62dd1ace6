//! Tests of websocket.
