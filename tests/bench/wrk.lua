-- wrk.lua - requests and results of wrk: wrk … -s wrk.lua URL -- KEYS METHOD PATH BODY THINK SEED
--
-- KEYS is a file with one API key a line; each request uses a random one. BODY is a file, or - for none. THINK is the
-- mean pause (ms) of a connection between a reply and its next request, exponentially distributed; 0: no pause.
-- The last line of output is one JSON object.

local requests = {}

local function contents(name)
	local file = assert(io.open(name))
	local text = file:read("*a")
	file:close()
	return text
end

-- Formats all requests before the first one: making one is then a table look-up.
local function prepare(keys, method, path, body)
	for key in io.lines(keys) do
		local headers = { ["X-API-Key"] = key }
		if body then
			headers["Content-Type"] = "application/json"
		end
		requests[#requests + 1] = wrk.format(method, path, headers, body)
	end
end

-- Timers have whole milliseconds, so the next pause makes up for the rounding.
local function pauses(mean)
	local owed = 0
	return function()
		owed = owed - mean * math.log(1 - math.random())
		local now = math.floor(owed)
		owed = owed - now
		return now
	end
end

function init(args)
	local think = tonumber(args[5])
	math.randomseed(tonumber(args[6]))
	prepare(args[1], args[2], args[3], args[4] ~= "-" and contents(args[4]) or nil)
	if think > 0 then
		delay = pauses(think)
	end
end

function request()
	return requests[math.random(#requests)]
end

function done(summary, latency)
	local e = summary.errors
	io.write(string.format('{"requests":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
		'"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d}\n', summary.requests, summary.duration, e.connect, e.read,
		e.write, e.status, e.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99),
		latency.max))
end
