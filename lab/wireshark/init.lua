-- Wireshark runs this file when it starts. The path is relative to this folder.
dofile("../../tcp_socket/wireshark/wstn.lua")
