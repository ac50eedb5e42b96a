// What zarrita reads of an array, as a digest: the same code in Node and in a browser.
import * as zarr from "zarrita";

const NOTHING = { data: new Uint8Array(0), shape: [0], stride: [1] };

/**
 * @param store - of zarrita, at a store's folder
 * @param names - of its arrays
 * @returns name -> shape, dtype, and the SHA-256 of its values in C order; or why it cannot be read
 */
export async function digests(store, names) {
  const group = await zarr.open.v3(store, { kind: "group" });
  const found = { "": Object.keys(group.attrs) };
  for (const name of names) {
    try {
      const array = await zarr.open.v3(group.resolve(name), { kind: "array" });
      const { shape, dtype } = array;
      const part = [zarr.slice(1, null, 2), zarr.slice(0, null, 2), ...shape.slice(2).fill(null)];
      // It has no selections of nothing.
      const all = shape[0] > 0 ? await zarr.get(array) : NOTHING;
      const some = shape[0] > 1 ? await zarr.get(array, part) : NOTHING;
      found[name] = { shape, dtype, all: await digest(all), part: await digest(some) };
    } catch (error) {
      found[name] = { error: String(error) };
    }
  }
  return found;
}

async function digest(chunk) {
  const bytes = new Uint8Array(inOrder(chunk).buffer);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// zarrita's values lie as the codecs leave them; strides say how.
function inOrder({ data, shape, stride }) {
  const bools = typeof data.get === "function"; // zarrita's own array of them
  const count = shape.reduce((all, n) => all * n, 1);
  const values = bools ? new Uint8Array(count) : new data.constructor(count);
  const index = shape.map(() => 0);
  let place = 0;
  for (let i = 0; i < count; i++) {
    values[i] = bools ? Number(data.get(place)) : data[place];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      place += stride[axis];
      if (++index[axis] < shape[axis]) break;
      place -= stride[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return values;
}
