-- Wireshark runs this file when it starts. The path is relative to this folder.
dofile("../../tcp_socket/wireshark/wstn.lua")
-- The port of Redis over TLS in the captures of wire --tls.
DissectorTable.get("tls.port"):add(6380, DissectorTable.get("tcp.port"):get_dissector(6379))
