//! tcp_socket
