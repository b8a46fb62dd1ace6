-- Shows the Weather Station Protocol (tcp_socket/PROTOCOL.md) in Wireshark and tshark. Wireshark
-- calls this a dissector: it gives names to bytes and adds them to the tree of a packet. Usage:
--
--     wireshark -X lua_script:tcp_socket/wireshark/wstn.lua capture.pcapng

local wstn = Proto("wstn", "Weather Station Protocol")

local KINDS = {
  [0x0001] = "RECORD", [0x0002] = "WATCH", [0x0003] = "CANCEL", [0x0004] = "PING", [0x0005] = "GOODBYE",
  [0x0101] = "RECORDED", [0x0102] = "READING", [0x0104] = "PONG", [0x01ff] = "ERROR",
}
local METRICS = { [1] = "temperature", [2] = "humidity", [3] = "pressure", [4] = "wind" }
local CODES = {
  [1] = "BAD_MAGIC", [2] = "UNSUPPORTED_VERSION", [3] = "TOO_MANY_CONNECTIONS", [4] = "HANDSHAKE_TIMEOUT",
  [5] = "IDLE_TIMEOUT", [6] = "BAD_CHECKSUM", [7] = "FRAME_TOO_LARGE", [8] = "BAD_REQUEST_ID",
  [9] = "SHUTTING_DOWN", [10] = "BAD_GOODBYE", [11] = "FRAME_TOO_SLOW", [16] = "UNKNOWN_KIND",
  [17] = "UNKNOWN_FLAG", [18] = "BAD_PAYLOAD", [19] = "INVALID_READING", [20] = "STORE_FULL",
  [21] = "UNKNOWN_STATION", [22] = "UNKNOWN_OUTCOME", [23] = "TOO_MANY_WATCHES", [24] = "BAD_BATCH_ID",
}
local MAGIC = 0x5753544e -- "WSTN"
local HELLO, WELCOME, HEADER, READING = 24, 40, 16, 17 -- lengths in bytes
local END = 0x0100

-- The names are for display filters, for example `wstn.kind == 1`.
local f = {
  magic = ProtoField.string("wstn.magic", "Magic"),
  lowest = ProtoField.uint16("wstn.lowest_version", "Lowest version"),
  highest = ProtoField.uint16("wstn.highest_version", "Highest version"),
  client_id = ProtoField.bytes("wstn.client_id", "Client ID"),
  version = ProtoField.uint16("wstn.version", "Version"),
  remembered = ProtoField.uint16("wstn.remembered", "Remembered"),
  instance_id = ProtoField.bytes("wstn.instance_id", "Instance ID"),
  largest_payload = ProtoField.uint32("wstn.largest_payload", "Largest payload"),
  replies_kept = ProtoField.uint32("wstn.replies_kept", "Replies kept"),
  most_watches = ProtoField.uint32("wstn.most_watches", "Most watches"),
  idle_timeout = ProtoField.uint32("wstn.idle_timeout", "Idle timeout in milliseconds"),
  kind = ProtoField.uint16("wstn.kind", "Kind", base.HEX, KINDS),
  flags = ProtoField.uint16("wstn.flags", "Flags", base.HEX),
  ends = ProtoField.bool("wstn.flags.end", "END", 16, nil, END),
  request_id = ProtoField.uint32("wstn.request_id", "Request ID"),
  length = ProtoField.uint32("wstn.payload_length", "Payload length"),
  checksum = ProtoField.uint32("wstn.checksum", "Checksum (CRC-32C)", base.HEX),
  batch_id = ProtoField.uint64("wstn.batch_id", "Batch ID"),
  id_length = ProtoField.uint8("wstn.id_length", "ID length"),
  station = ProtoField.string("wstn.station_id", "Station ID"),
  readings = ProtoField.uint16("wstn.readings", "Readings"),
  metric = ProtoField.uint8("wstn.metric", "Metric", base.DEC, METRICS),
  value = ProtoField.double("wstn.value", "Value"),
  recorded_at = ProtoField.absolute_time("wstn.recorded_at", "Recorded at", base.UTC),
  accepted = ProtoField.uint32("wstn.accepted", "Accepted"),
  skipped = ProtoField.uint64("wstn.skipped", "Skipped"),
  code = ProtoField.uint16("wstn.code", "Code", base.DEC, CODES),
  text = ProtoField.string("wstn.text", "Text"),
  payload = ProtoField.bytes("wstn.payload", "Payload"),
  response_in = ProtoField.framenum("wstn.response_in", "Response in", base.NONE, frametype.RESPONSE),
  request_in = ProtoField.framenum("wstn.request_in", "Request in", base.NONE, frametype.REQUEST),
  time = ProtoField.relative_time("wstn.time", "Time since the request"),
}
wstn.fields = f

local function expert_info(name, text, group, severity)
  return ProtoExpert.new("wstn.expert." .. name, text, expert.group[group], expert.severity[severity])
end
local bad_checksum = expert_info("checksum", "The checksum does not match", "CHECKSUM", "ERROR")
local bad_payload = expert_info("payload", "The payload does not have the form of its kind", "MALFORMED", "ERROR")
local refused = expert_info("refused", "Refused", "RESPONSE_CODE", "WARN")
local unknown = expert_info("kind", "Unknown kind", "UNDECODED", "NOTE")
wstn.experts = { bad_checksum, bad_payload, refused, unknown }

-- CRC-32C, a byte at a time: the table holds the checksum of each byte.
local crc_table = {}
for byte = 0, 255 do
  local crc = byte
  for _ = 1, 8 do
    local lowest = bit.band(crc, 1)
    crc = bit.rshift(crc, 1)
    if lowest == 1 then crc = bit.bxor(crc, 0x82f63b78) end
  end
  crc_table[byte] = crc
end

local function crc32c(bytes)
  local crc = 0xffffffff
  for at = 1, #bytes do
    crc = bit.bxor(crc_table[bit.band(bit.bxor(crc, bytes:byte(at)), 0xff)], bit.rshift(crc, 8))
  end
  return bit.bnot(crc)
end

-- Wireshark dissects a packet as often as it shows it, and may begin with any of them once it has
-- seen all in order. So what a dissector learns must be kept for each packet.
local greeted, clients, open, calls

function wstn.init() -- Wireshark calls this before it reads a capture.
  greeted = {} -- "stream port": the packet that completed the HELLO or WELCOME from this port
  clients = {} -- stream: the client's port
  open = {} -- "stream ID": the call that has no response yet
  calls = {} -- "packet stream ID": the call that a request or response belongs to
end

local tcp_stream = Field.new("tcp.stream")

-- Returns the length of the HELLO or WELCOME at `at`, or nil if a frame begins there. Only the
-- first message of each side is no frame.
local function greeting(tvb, at, pinfo)
  if tvb(at, 4):uint() ~= MAGIC then return nil end
  local stream, port = tcp_stream().value, pinfo.src_port
  local side = stream .. " " .. port
  if greeted[side] and pinfo.number > greeted[side] then return nil end
  if not clients[stream] then
    -- The client speaks first, except that a server may refuse at once, with version 0.
    local is_refusal = tvb(at + 4, 4):uint() == 0
    clients[stream] = is_refusal and pinfo.dst_port or port
  end
  return clients[stream] == port and HELLO or WELCOME, side
end

-- Adds `count` readings. Returns the position after them, or nil if the payload is too short.
local function add_readings(tree, payload, at, count)
  if payload:len() - at < count * READING then return nil end
  for start = at, at + (count - 1) * READING, READING do
    local value = payload(start + 1, 8)
    local ms = payload(start + 9, 8):uint64()
    local text = string.format("Reading: %s %g", METRICS[payload(start, 1):uint()] or "unknown", value:float())
    local reading = tree:add(wstn, payload(start, READING), text)
    reading:add(f.metric, payload(start, 1))
    reading:add(f.value, value)
    local time = NSTime.new((ms / 1000):tonumber(), (ms % 1000):tonumber() * 1000000)
    reading:add(f.recorded_at, payload(start + 9, 8), time)
  end
  return at + count * READING
end

local function count_of(count)
  return count == 1 and ", 1 reading" or ", " .. count .. " readings"
end

-- For each kind with a payload: adds its fields, and returns a text about them, or nil if the
-- payload is malformed.
local payloads = {}

function payloads.RECORD(payload, tree)
  if payload:len() < 8 then return nil end
  tree:add(f.batch_id, payload(0, 8))
  local at, total = 8, 0
  while at < payload:len() do
    local id_length = payload(at, 1):uint()
    local first = at + 1 + id_length + 2 -- the first reading
    if payload:len() < first then return nil end
    local station, count = payload(at + 1, id_length), payload(first - 2, 2):uint()
    local run = tree:add(wstn, payload(at), "Run: " .. station:string() .. count_of(count))
    run:add(f.id_length, payload(at, 1))
    run:add(f.station, station)
    run:add(f.readings, payload(first - 2, 2))
    local after = add_readings(run, payload, first, count)
    if not after then return nil end
    run:set_len(after - at)
    at, total = after, total + count
  end
  return count_of(total)
end

function payloads.RECORDED(payload, tree)
  if payload:len() ~= 4 then return nil end
  tree:add(f.accepted, payload(0, 4))
  return ", accepted " .. payload(0, 4):uint()
end

function payloads.WATCH(payload, tree)
  if payload:len() == 0 then return nil end
  tree:add(f.station, payload(0))
  return " " .. payload(0):string()
end

function payloads.READING(payload, tree)
  if payload:len() < 8 or (payload:len() - 8) % READING ~= 0 then return nil end
  tree:add(f.skipped, payload(0, 8))
  local count = (payload:len() - 8) / READING
  add_readings(tree, payload, 8, count)
  return count_of(math.floor(count))
end

function payloads.ERROR(payload, tree)
  if payload:len() < 2 then return nil end
  local code = payload(0, 2):uint()
  local name, text = CODES[code] or "code " .. code, ""
  local item = tree:add(f.code, payload(0, 2))
  if payload:len() > 2 then
    text = ": " .. payload(2):string(ENC_UTF_8)
    tree:add(f.text, payload(2))
  end
  item:add_proto_expert_info(refused, "Refused with " .. name .. text)
  return " " .. name
end
