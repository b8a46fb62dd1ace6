//! Tests of amqp.
