-- Replaces the value of KEYS[1], for ARGV[3] ms, where it is ARGV[1]. ARGV[2] is the new one; empty: it is deleted.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
