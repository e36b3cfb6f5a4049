-- Sends the requests of a file (ARGUMENT 1), one after the other, as they stand there. They are read before the clock starts.

local requests, turn = {}, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  local text = file:read("*a")
  file:close()
  local from = 1
  while true do
    local _, to = text:find("\r\n\r\n", from, true)
    if not to then break end
    requests[#requests + 1] = text:sub(from, to)
    from = to + 1
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end
