// ethers reads what the test asks for.
import { Contract, JsonRpcProvider } from "ethers";
import { answer, asked } from "./shared.mjs";

const provider = new JsonRpcProvider(asked.http);
const transaction = (tx) => ({
  hash: tx.hash, nonce: tx.nonce, from: tx.from, to: tx.to, value: tx.value, input: tx.data, index: tx.index,
});
const log = (one) => ({ address: one.address, topics: one.topics, data: one.data, logIndex: one.index });

const blocks = [];
for (const { block, full } of asked.blocks) {
  const found = await provider.getBlock(block.length === 66 ? block : Number(block), full);
  blocks.push({
    hash: found.hash, parentHash: found.parentHash, number: found.number, timestamp: found.timestamp,
    gasLimit: found.gasLimit, gasUsed: found.gasUsed, baseFeePerGas: found.baseFeePerGas, miner: found.miner,
    transactions: full ? found.prefetchedTransactions.map(transaction) : found.transactions,
  });
}
const receipts = [];
for (const hash of asked.receipts) {
  const found = await provider.getTransactionReceipt(hash);
  receipts.push({
    transactionHash: found.hash, blockHash: found.blockHash, blockNumber: found.blockNumber,
    transactionIndex: found.index, from: found.from, to: found.to, contractAddress: found.contractAddress,
    gasUsed: found.gasUsed, status: found.status, logs: found.logs.map(log),
  });
}
const token = new Contract(asked.token, asked.abi, provider);
const { fromBlock, toBlock } = asked.transfers;
const events = await token.queryFilter(token.filters.Transfer(), Number(fromBlock), Number(toBlock));
const transfers = events.map((one) => ({
  transactionHash: one.transactionHash, blockNumber: one.blockNumber, logIndex: one.index,
  from: one.args.from, to: one.args.to, value: one.args.value,
}));
const code = await Promise.all(asked.code.map(([address, block]) => provider.getCode(address, block)));
const storage = await Promise.all(asked.storage.map(([address, slot, block]) => provider.getStorage(address, slot, block)));
const balances = await Promise.all(asked.balances.map(([address, block]) => provider.getBalance(address, block)));
const chain = (await provider.getNetwork()).chainId;
answer({ chain, blocks, receipts, transfers, code, storage, balances });
provider.destroy();
