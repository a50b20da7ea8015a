// viem follows new heads over WebSocket and pages through a filter over HTTP.
import { createPublicClient, http, parseAbi, webSocket } from "viem";
import { answer, asked, end, until } from "./shared.mjs";

const heads = [];
const changes = [];
const socket = createPublicClient({ transport: webSocket(asked.ws, { reconnect: false }) });
const client = createPublicClient({ transport: http(asked.http) });
const stop = socket.watchBlockNumber({
  onBlockNumber: (number) => heads.push(number),
  onError: (error) => { throw error; },
});
const filter = await client.createContractEventFilter({
  address: asked.token, abi: parseAbi(asked.abi), eventName: "Transfer",
});
const shown = (one) => ({
  transactionHash: one.transactionHash, blockHash: one.blockHash, removed: one.removed,
  from: one.args.from, to: one.args.to, value: one.args.value,
});
answer("filter");
const last = await end(() => until(() => heads.length > 0).then(() => answer("ready")));
await until(
  () => heads.includes(BigInt(last.number)) && changes.length >= last.logs,
  async () => changes.push(...(await client.getFilterChanges({ filter })).map(shown)),
);
const all = (await client.getFilterLogs({ filter })).map(shown);
const gone = await client.uninstallFilter({ filter });
stop();
answer({ heads, changes, all, gone });
process.exit(0);
