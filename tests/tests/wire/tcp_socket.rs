//! Tests of tcp_socket.
