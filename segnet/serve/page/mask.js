// A lesion's mask: a box of the grid with one byte a voxel, x fastest. Drawing grows the box; sending trims it.

import { PLANES, clamp } from "./geometry.js";

const MARGIN = 8; // voxels the box grows beyond a stroke, so that it is seldom copied
const STROKES = 50; // that can be undone

export class Mask {
  constructor(shape, crop = null) {
    this.shape = shape;
    this.box = crop ? [...crop.box] : [0, 0, 0, 0, 0, 0];
    this.data = crop ? crop.data : new Uint8Array(0);
    this.version = 0; // grows with every change: drawn slices are kept by it
    this.strokes = [];
    this.slices = new Map();
  }

  get(x, y, z) {
    const [x0, y0, z0, nx, ny, nz] = this.box;
    x -= x0; y -= y0; z -= z0;
    return x >= 0 && y >= 0 && z >= 0 && x < nx && y < ny && z < nz ? this.data[x + nx * (y + ny * z)] : 0;
  }

  /** The part of a plane within the box: `{u0, v0, nu, nv, data}`, or null where the plane misses the box or is empty. */
  slice(axis, k) {
    const key = `${axis}${k}`, kept = this.slices.get(key);
    if (kept && kept.version === this.version) return kept.slice;
    const { u, v, w } = PLANES[axis], at = k - this.box[w], n = this.box.slice(3);
    let slice = null;
    if (at >= 0 && at < n[w]) {
      const step = [1, n[0], n[0] * n[1]], data = new Uint8Array(n[u] * n[v]);
      let any = 0;
      for (let j = 0, i = 0; j < n[v]; j++) {
        let from = at * step[w] + j * step[v];
        for (let c = 0; c < n[u]; c++, i++, from += step[u]) any |= data[i] = this.data[from];
      }
      if (any) slice = { u0: this.box[u], v0: this.box[v], nu: n[u], nv: n[v], data };
    }
    if (this.slices.size > 64) this.slices.clear();
    this.slices.set(key, { version: this.version, slice });
    return slice;
  }

  #grow(low, high) {
    const old = this.box, start = [], end = [];
    const empty = !this.data.length;
    if (!empty && [0, 1, 2].every(i => low[i] >= old[i] && high[i] < old[i] + old[i + 3])) return;
    for (let i = 0; i < 3; i++) {
      start[i] = Math.max(0, empty ? low[i] - MARGIN : Math.min(old[i], low[i] < old[i] ? low[i] - MARGIN : old[i]));
      end[i] = Math.min(this.shape[i], empty ? high[i] + 1 + MARGIN
        : Math.max(old[i] + old[i + 3], high[i] >= old[i] + old[i + 3] ? high[i] + 1 + MARGIN : 0));
    }
    const [nx, ny, nz] = [end[0] - start[0], end[1] - start[1], end[2] - start[2]], data = new Uint8Array(nx * ny * nz);
    const [x0, y0, z0, mx, my, mz] = old;
    for (let z = 0; z < mz; z++)
      for (let y = 0; y < my; y++)
        data.set(this.data.subarray(mx * (y + my * z), mx * (y + 1 + my * z)),
          x0 - start[0] + nx * (y + y0 - start[1] + ny * (z + z0 - start[2])));
    this.box = [...start, nx, ny, nz];
    this.data = data;
  }

  startStroke(value) {
    this.strokes.push({ value, voxels: [] });
    if (this.strokes.length > STROKES) this.strokes.shift();
  }

  /** A disc of the plane `axis` = k, radii in voxels. A radius below half a voxel paints the voxel alone. */
  disc(axis, k, u, v, ru, rv) {
    const plane = PLANES[axis], stroke = this.strokes.at(-1);
    const [nu, nv] = [this.shape[plane.u], this.shape[plane.v]];
    ru = Math.max(ru, 0.5); rv = Math.max(rv, 0.5);
    const cu = Math.round(u), cv = Math.round(v);
    const u0 = Math.max(0, Math.min(cu, Math.ceil(u - ru))), u1 = Math.min(nu - 1, Math.max(cu, Math.floor(u + ru)));
    const v0 = Math.max(0, Math.min(cv, Math.ceil(v - rv))), v1 = Math.min(nv - 1, Math.max(cv, Math.floor(v + rv)));
    if (u0 > u1 || v0 > v1) return;
    const low = [k, k, k], high = [k, k, k];
    low[plane.u] = u0; high[plane.u] = u1; low[plane.v] = v0; high[plane.v] = v1;
    if (stroke.value) this.#grow(low, high);
    const [bx, by, bz, nx, ny] = this.box, voxel = [k, k, k];
    for (let j = v0; j <= v1; j++)
      for (let i = u0; i <= u1; i++) {
        if (!(i === cu && j === cv) && ((i - u) / ru) ** 2 + ((j - v) / rv) ** 2 > 1) continue;
        voxel[plane.u] = i; voxel[plane.v] = j;
        const [x, y, z] = voxel;
        if (this.get(x, y, z) === stroke.value) continue;
        this.data[x - bx + nx * (y - by + ny * (z - bz))] = stroke.value;
        stroke.voxels.push(x, y, z);
      }
    this.version++;
  }

  /** Discs along a line, close enough to leave no gaps. */
  line(axis, k, from, to, ru, rv) {
    const steps = Math.max(1, Math.ceil(Math.max(Math.abs(to[0] - from[0]) / Math.max(ru, 0.5), Math.abs(to[1] - from[1]) / Math.max(rv, 0.5)) * 2));
    for (let s = 1; s <= steps; s++)
      this.disc(axis, k, from[0] + (to[0] - from[0]) * s / steps, from[1] + (to[1] - from[1]) * s / steps, ru, rv);
  }

  /** Ends a stroke; false when it changed nothing. */
  endStroke() {
    if (this.strokes.at(-1)?.voxels.length) return true;
    this.strokes.pop();
    return false;
  }

  undo() {
    const stroke = this.strokes.pop();
    if (!stroke) return false;
    const [bx, by, bz, nx, ny] = this.box, { voxels } = stroke;
    for (let i = 0; i < voxels.length; i += 3)
      this.data[voxels[i] - bx + nx * (voxels[i + 1] - by + ny * (voxels[i + 2] - bz))] = 1 - stroke.value;
    this.version++;
    return true;
  }

  /** The smallest box around the mask, as the API takes it. An empty mask is one voxel of zero. */
  crop() {
    const [bx, by, bz, nx, ny, nz] = this.box, low = [nx, ny, nz], high = [-1, -1, -1];
    for (let z = 0, i = 0; z < nz; z++)
      for (let y = 0; y < ny; y++)
        for (let x = 0; x < nx; x++)
          if (this.data[i++]) {
            if (x < low[0]) low[0] = x;
            if (x > high[0]) high[0] = x;
            if (y < low[1]) low[1] = y;
            if (y > high[1]) high[1] = y;
            if (z < low[2]) low[2] = z;
            high[2] = z;
          }
    if (high[0] < 0) return { box: [clamp(bx, 0, this.shape[0] - 1), clamp(by, 0, this.shape[1] - 1), clamp(bz, 0, this.shape[2] - 1), 1, 1, 1], data: new Uint8Array(1) };
    const [mx, my, mz] = [0, 1, 2].map(i => high[i] - low[i] + 1), data = new Uint8Array(mx * my * mz);
    for (let z = 0; z < mz; z++)
      for (let y = 0; y < my; y++) {
        const from = low[0] + nx * (y + low[1] + ny * (z + low[2]));
        data.set(this.data.subarray(from, from + mx), mx * (y + my * z));
      }
    return { box: [bx + low[0], by + low[1], bz + low[2], mx, my, mz], data };
  }
}
