// viem reads what the test asks for.
import { createPublicClient, http, parseAbi } from "viem";
import { answer, asked } from "./shared.mjs";

const client = createPublicClient({ transport: http(asked.http) });
const abi = parseAbi(asked.abi);
const at = (block) => ({ blockNumber: BigInt(block) });
const transaction = (tx) => ({
  hash: tx.hash, nonce: tx.nonce, from: tx.from, to: tx.to, value: tx.value, input: tx.input, index: tx.transactionIndex,
});
const log = (one) => ({ address: one.address, topics: one.topics, data: one.data, logIndex: one.logIndex });

const blocks = [];
for (const { block, full } of asked.blocks) {
  const which = block.length === 66 ? { blockHash: block } : at(block);
  const found = await client.getBlock({ ...which, includeTransactions: full });
  blocks.push({
    hash: found.hash, parentHash: found.parentHash, number: found.number, timestamp: found.timestamp,
    gasLimit: found.gasLimit, gasUsed: found.gasUsed, baseFeePerGas: found.baseFeePerGas, miner: found.miner,
    transactions: full ? found.transactions.map(transaction) : found.transactions,
  });
}
const receipts = [];
for (const hash of asked.receipts) {
  const found = await client.getTransactionReceipt({ hash });
  receipts.push({
    transactionHash: found.transactionHash, blockHash: found.blockHash, blockNumber: found.blockNumber,
    transactionIndex: found.transactionIndex, from: found.from, to: found.to, contractAddress: found.contractAddress,
    gasUsed: found.gasUsed, status: { success: 1, reverted: 0 }[found.status], logs: found.logs.map(log),
  });
}
const events = await client.getContractEvents({
  address: asked.token, abi, eventName: "Transfer",
  fromBlock: BigInt(asked.transfers.fromBlock), toBlock: BigInt(asked.transfers.toBlock),
});
const transfers = events.map((one) => ({
  transactionHash: one.transactionHash, blockNumber: one.blockNumber, logIndex: one.logIndex,
  from: one.args.from, to: one.args.to, value: one.args.value,
}));
const code = await Promise.all(
  asked.code.map(async ([address, block]) => (await client.getCode({ address, ...at(block) })) ?? "0x"),
);
const storage = await Promise.all(
  asked.storage.map(([address, slot, block]) => client.getStorageAt({ address, slot, ...at(block) })),
);
const balances = await Promise.all(asked.balances.map(([address, block]) => client.getBalance({ address, ...at(block) })));
const chain = await client.getChainId();
answer({ chain, blocks, receipts, transfers, code, storage, balances });
