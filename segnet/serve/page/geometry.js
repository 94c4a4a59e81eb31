// Grids, planes and the mapping between voxels and the screen.
//
// An image's grid is canonical RAS: x grows to the patient's right, y to the front, z to the head.
// A plane is named by the axis that it is normal to. On the screen, both of its axes run against the grid's:
// the patient's right is at the left of axial and coronal planes, the nose at the left of sagittal ones, the head at the top.

export const PLANES = {
  z: { name: "Axial", short: "Ax", u: 0, v: 1, w: 2, letters: "RLAP" },
  y: { name: "Coronal", short: "Cor", u: 0, v: 2, w: 1, letters: "RLSI" },
  x: { name: "Sagittal", short: "Sag", u: 1, v: 2, w: 0, letters: "APSI" },
};

/** Millimetres (RAS) of a voxel index, fractions allowed. */
export const toMm = (affine, [x, y, z]) => [0, 1, 2].map(r => affine[r][0] * x + affine[r][1] * y + affine[r][2] * z + affine[r][3]);

/** The inverse of `toMm`. */
export function toVoxel(affine, point) {
  const [[a, b, c, p], [d, e, f, q], [g, h, i, r]] = affine;
  const x = point[0] - p, y = point[1] - q, z = point[2] - r;
  const A = e * i - f * h, B = f * g - d * i, C = d * h - e * g, det = a * A + b * B + c * C;
  return [
    (A * x + (c * h - b * i) * y + (b * f - c * e) * z) / det,
    (B * x + (a * i - c * g) * y + (c * d - a * f) * z) / det,
    (C * x + (b * g - a * h) * y + (a * e - b * d) * z) / det,
  ];
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
export const inside = (shape, voxel) => voxel.every((value, i) => value >= 0 && value < shape[i]);

/** Rectangles of the planes that a layout shows, in whole pixels of the stage, with gaps between them. */
export function arrange(layout, width, height) {
  const gap = 2;
  if (layout !== "all") return [{ axis: layout, left: 0, top: 0, width, height }];
  if (width >= height * 1.05) {
    const main = Math.round((width - gap) * 0.62), side = width - gap - main, half = Math.floor((height - gap) / 2);
    return [
      { axis: "z", left: 0, top: 0, width: main, height },
      { axis: "y", left: main + gap, top: 0, width: side, height: half },
      { axis: "x", left: main + gap, top: half + gap, width: side, height: height - gap - half },
    ];
  }
  const main = Math.round((height - gap) * 0.64), side = height - gap - main, half = Math.floor((width - gap) / 2);
  return [
    { axis: "z", left: 0, top: 0, width, height: main },
    { axis: "y", left: 0, top: main + gap, width: half, height: side },
    { axis: "x", left: half + gap, top: main + gap, width: width - gap - half, height: side },
  ];
}

/** A plane's tile on the screen: where a voxel is seen and which voxel a pixel shows. */
export class Tile {
  constructor(rectangle, image, centre, zoom, crosshair) {
    Object.assign(this, rectangle, PLANES[rectangle.axis]);
    const [su, sv] = [image.spacing_mm[this.u], image.spacing_mm[this.v]];
    const fit = Math.min(this.width / (su * image.shape[this.u]), this.height / (sv * image.shape[this.v])) * 0.98;
    this.pxPerMm = fit * zoom;
    this.du = su * this.pxPerMm; // pixels per voxel
    this.dv = sv * this.pxPerMm;
    this.cu = centre[this.u];
    this.cv = centre[this.v];
    this.midX = this.left + this.width / 2;
    this.midY = this.top + this.height / 2;
    this.index = crosshair[this.w];
    this.count = image.shape[this.w];
  }

  holds(x, y) {
    return x >= this.left && x < this.left + this.width && y >= this.top && y < this.top + this.height;
  }

  /** Pixel of the plane's voxel coordinates; voxel centres are whole numbers. */
  at(u, v) {
    return [this.midX - (u - this.cu) * this.du, this.midY - (v - this.cv) * this.dv];
  }

  /** Voxel coordinates (u, v) of a pixel, not rounded. */
  uv(x, y) {
    return [this.cu - (x - this.midX) / this.du, this.cv - (y - this.midY) / this.dv];
  }

  /** The three voxel coordinates of a pixel, not rounded within the plane. */
  voxel(x, y) {
    const [u, v] = this.uv(x, y), voxel = [0, 0, 0];
    voxel[this.u] = u;
    voxel[this.v] = v;
    voxel[this.w] = this.index;
    return voxel;
  }
}
