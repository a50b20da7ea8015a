// ethers follows new heads over WebSocket and a filter over HTTP, which it polls.
import { Contract, JsonRpcProvider, WebSocketProvider } from "ethers";
import { answer, asked, end, until } from "./shared.mjs";

const heads = [];
const changes = [];
const socket = new WebSocketProvider(asked.ws);
const provider = new JsonRpcProvider(asked.http);
await socket.on("block", (number) => heads.push(number));
const token = new Contract(asked.token, asked.abi, provider);
const filter = await provider.send("eth_newFilter", [{ address: asked.token, topics: [asked.topic] }]);
const page = async (method) =>
  (await provider.send(method, [filter])).map((log) => {
    const { args } = token.interface.parseLog(log);
    return {
      transactionHash: log.transactionHash, blockHash: log.blockHash, removed: log.removed,
      from: args.from, to: args.to, value: args.value,
    };
  });
answer("filter");
// a subscription is made in the background: its first block shows that it is there
const last = await end(() => until(() => heads.length > 0).then(() => answer("ready")));
await until(
  () => heads.includes(Number(last.number)) && changes.length >= last.logs,
  async () => changes.push(...(await page("eth_getFilterChanges"))),
);
const all = await page("eth_getFilterLogs");
const gone = await provider.send("eth_uninstallFilter", [filter]);
answer({ heads, changes, all, gone });
// its sockets and timers would keep it alive for a while
process.exit(0);
