-- Reads the token counts out of answers as they pass, so that they can be logged. Nothing is held back or changed.
--
--   global                      lua-load-per-thread /etc/haproxy/usage.lua
--   frontend, before log-format filter lua.usage
--
-- Then `var(txn.prompt_tokens)` and `var(txn.completion_tokens)` have what the answer's last `usage` says. A stream has
-- one when its client asks for it (`stream_options.include_usage`), or when vLLM is started with
-- `--enable-force-include-usage`. Text that a model writes cannot pose as usage: inside a JSON string its quotes are
-- escaped.

local KEPT = 2048 -- bytes of the end of an answer; its `usage` has 100 to 600

local Usage = { id = "usage", flags = filter.FLT_CFG_FL_HTX }
Usage.__index = Usage

function Usage.new()
    return setmetatable({ tail = "" }, Usage)
end

function Usage:start_analyze(txn, channel)
    if channel:is_resp() then
        filter.register_data_filter(self, channel)
    end
end

function Usage:http_payload(txn, message)
    local piece = message:body()
    if piece ~= nil then
        self.tail = (self.tail .. piece:sub(-KEPT)):sub(-KEPT)
    end
end

function Usage:http_end(txn, message)
    local at = self.tail:match('.*()"usage"')
    if not message.channel:is_resp() or at == nil then
        return
    end
    for name, form in pairs({
        ["txn.prompt_tokens"] = '"prompt_tokens"%s*:%s*(%d+)',
        ["txn.completion_tokens"] = '"completion_tokens"%s*:%s*(%d+)',
    }) do
        local found = self.tail:sub(at):match(form)
        if found ~= nil then
            txn:set_var(name, tonumber(found))
        end
    end
end

core.register_filter("usage", Usage, function(usage, _)
    return usage
end)
