// node node.js <<< '{"/a/store": ["actions"]}'
import { readFileSync } from "node:fs";
import FileSystemStore from "@zarrita/storage/fs";
import { digests } from "./read.js";

const asked = JSON.parse(readFileSync(0, "utf8"));
const found = {};
for (const [path, names] of Object.entries(asked)) {
  found[path] = await digests(new FileSystemStore(path), names);
}
console.log(JSON.stringify(found));
