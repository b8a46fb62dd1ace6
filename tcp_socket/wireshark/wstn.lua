-- A dissector for Wireshark and tshark: it names the bytes of the Weather Station Protocol, which
-- tcp_socket/PROTOCOL.md describes. tcp_socket/README.md says how to use it.

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
  ends = ProtoField.bool("wstn.flags.end", "END", 16, nil, 0x0100),
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

-- CRC-32C, a byte at a time. The table holds what each byte does to the checksum.
local crc_table = {}
for byte = 0, 255 do
  local crc = byte
  for _ = 1, 8 do
    crc = bit.bxor(bit.rshift(crc, 1), bit.band(crc, 1) * 0x82f63b78)
  end
  crc_table[byte] = crc
end

local function crc32c(bytes)
  local crc = 0xffffffff
  for at = 1, #bytes do
    crc = bit.bxor(crc_table[bit.band(bit.bxor(crc, bytes:byte(at)), 0xff)], bit.rshift(crc, 8))
  end
  return bit.tohex(bit.bnot(crc)) -- as hexadecimal digits, because `bit` has signed numbers
end

-- Wireshark dissects all packets in order once, and later again those that it shows. So this
-- remembers in which packet it learned something.
local greeted, clients
function wstn.init() -- runs before a capture is read
  greeted = {} -- "stream port": the packet that completes the HELLO or WELCOME from this port
  clients = {} -- stream: the client's port
end
local tcp_stream = Field.new("tcp.stream")

-- Returns the length of the HELLO or WELCOME at `at`, or nil if a frame begins there. Only the
-- first message of each side is not a frame.
local function greeting(tvb, at, pinfo)
  local stream, port = tcp_stream().value, pinfo.src_port
  local side = stream .. " " .. port
  if tvb(at, 4):uint() ~= MAGIC or pinfo.number > (greeted[side] or math.huge) then return nil end
  -- The client speaks first, except that a server may refuse at once, with version 0.
  clients[stream] = clients[stream] or (tvb(at + 4, 4):uint() == 0 and pinfo.dst_port or port)
  return clients[stream] == port and HELLO or WELCOME, side
end

local function add_reading(tree, payload, at)
  local value, ms = payload(at + 1, 8), payload(at + 9, 8):uint64()
  local metric = METRICS[payload(at, 1):uint()] or "unknown"
  local text = string.format("Reading: %s %g", metric, value:float())
  local reading = tree:add(wstn, payload(at, READING), text)
  reading:add(f.metric, payload(at, 1))
  reading:add(f.value, value)
  local time = NSTime.new((ms / 1000):tonumber(), (ms % 1000):tonumber() * 1000000)
  reading:add(f.recorded_at, payload(at + 9, 8), time)
end

-- For each kind with a payload: adds its fields and returns a summary. Beyond the end of the
-- payload, `payload(…)` raises an error.
local payloads = {}

function payloads.RECORD(payload, tree)
  tree:add(f.batch_id, payload(0, 8))
  local at, total = 8, 0
  while at < payload:len() do
    local id_length = payload(at, 1):uint()
    local station, count = payload(at + 1, id_length), payload(at + 1 + id_length, 2)
    local first = at + 3 + id_length
    local after = first + count:uint() * READING
    local run = tree:add(wstn, payload(at, after - at), "Run of " .. station:string())
    run:add(f.id_length, payload(at, 1))
    run:add(f.station, station)
    run:add(f.readings, count)
    for reading = first, after - 1, READING do add_reading(run, payload, reading) end
    at, total = after, total + count:uint()
  end
  return ", readings: " .. total
end

function payloads.RECORDED(payload, tree)
  tree:add(f.accepted, payload(0, 4))
  return ", accepted: " .. payload(0, 4):uint()
end

function payloads.WATCH(payload, tree)
  tree:add(f.station, payload(0))
  return " " .. payload(0):string()
end

function payloads.READING(payload, tree)
  tree:add(f.skipped, payload(0, 8))
  for at = 8, payload:len() - 1, READING do add_reading(tree, payload, at) end
  return ", readings: " .. math.floor((payload:len() - 8) / READING)
end

function payloads.ERROR(payload, tree)
  local code = payload(0, 2):uint()
  local name = CODES[code] or "code " .. code
  local text = payload:len() > 2 and payload(2):string(ENC_UTF_8) or ""
  tree:add(f.code, payload(0, 2)):add_proto_expert_info(refused, "Refused: " .. name .. ", " .. text)
  if text ~= "" then tree:add(f.text, payload(2)) end
  return " " .. name
end

local function add_frame(tree, tvb)
  local kind, id, ends = tvb(0, 2):uint(), tvb(4, 4):uint(), tvb(2, 1):bitfield(7, 1) == 1
  local name = KINDS[kind] or "unknown"
  local item = tree:add(f.kind, tvb(0, 2))
  if not KINDS[kind] then item:add_proto_expert_info(unknown) end
  tree:add(f.flags, tvb(2, 2)):add(f.ends, tvb(2, 2))
  tree:add(f.request_id, tvb(4, 4))
  tree:add(f.length, tvb(8, 4))
  item = tree:add(f.checksum, tvb(12, 4))
  if crc32c(tvb:raw(0, 12) .. tvb:raw(HEADER)) ~= bit.tohex(tvb(12, 4):uint()) then
    item:add_proto_expert_info(bad_checksum)
  end
  local summary = name .. (ends and " END" or "") .. (id == 0 and "" or " #" .. id)
  if tvb:len() == HEADER then return summary end
  -- A malformed payload, or one that its kind doesn't have, is shown as a whole.
  local ok, about = pcall(payloads[name], tvb(HEADER):tvb(), tree)
  if ok then return summary .. about end
  item = tree:add(f.payload, tvb(HEADER))
  if KINDS[kind] then item:add_proto_expert_info(bad_payload) end
  return summary
end

local HELLO_FIELDS = { { f.magic, 4 }, { f.lowest, 2 }, { f.highest, 2 }, { f.client_id, 16 } }
local WELCOME_FIELDS = {
  { f.magic, 4 }, { f.version, 2 }, { f.remembered, 2 }, { f.instance_id, 16 },
  { f.largest_payload, 4 }, { f.replies_kept, 4 }, { f.most_watches, 4 }, { f.idle_timeout, 4 },
}

local function add_greeting(tree, tvb, is_hello)
  local at = 0
  for _, part in ipairs(is_hello and HELLO_FIELDS or WELCOME_FIELDS) do
    local item = tree:add(part[1], tvb(at, part[2]))
    if part[1] == f.version and tvb(at, 2):uint() == 0 then item:add_proto_expert_info(refused) end
    at = at + part[2]
  end
  return is_hello and "HELLO" or "WELCOME"
end

local function add_message(tvb, pinfo, root)
  local tree = root:add(wstn, tvb())
  local length, side = greeting(tvb, 0, pinfo)
  if length then greeted[side] = greeted[side] or pinfo.number end
  local summary = length and add_greeting(tree, tvb, length == HELLO) or add_frame(tree, tvb)
  tree:append_text(", " .. summary)
  pinfo.cols.protocol = "WSTN"
  pinfo.cols.info:append(summary .. "  ")
  pinfo.cols.info:fence() -- A packet may hold several messages.
  return tvb:len()
end

local function length_of(tvb, pinfo, at)
  return greeting(tvb, at, pinfo) or HEADER + tvb(at + 8, 4):uint()
end

function wstn.dissector(tvb, pinfo, root)
  pinfo.cols.info = ""
  dissect_tcp_pdus(tvb, root, HEADER, length_of, add_message) -- collects segments of a message
  return tvb:len()
end

DissectorTable.get("tcp.port"):add(7878, wstn)
DissectorTable.get("tls.port"):add(7879, wstn) -- in the captures of wire --tls
-- On any port: a connection that begins with the magic, in a segment that holds all of HELLO.
wstn:register_heuristic("tcp", function(tvb, pinfo, root)
  if tvb:len() < HELLO or tvb(0, 4):uint() ~= MAGIC then return false end
  pinfo.conversation = wstn -- for the packets that follow
  return wstn.dissector(tvb, pinfo, root) > 0
end)
