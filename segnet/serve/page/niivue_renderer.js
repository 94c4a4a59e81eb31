// Draws the planes with NiiVue, on the graphics card. NiiVue parses, resamples and windows the volume. The page decides
// which part of which plane is seen where: it handles clicks, strokes and gestures itself, for both renderers alike.

import { volume } from "./api.js";

const SLICE = { z: 0, y: 1, x: 2 }; // NiiVue's slice types: axial, coronal, sagittal

/** True where the browser offers WebGL2. */
export function available() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(context);
}

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;
const SOFTWARE_VOXELS = 8e6; // beyond, a drawn frame takes seconds without a graphics card, and server slices are faster
const SOFTWARE_BYTES = 4e6; // of a compressed file to preview

const script = new URL("niivue.umd.js", import.meta.url).href;
let loading = null;

/** Loads NiiVue, once; the page itself does not wait for its two megabytes. */
export function loadLibrary() {
  loading ??= new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = script;
    element.onload = resolve;
    element.onerror = () => { loading = null; reject(new Error("The viewer's library did not load. Reload the page.")); };
    document.head.append(element);
  });
  return loading;
}

export class NiivueRenderer {
  constructor(canvas, redraw) {
    this.canvas = canvas;
    this.redraw = redraw;
    this.tiles = [];
    this.window = [0, 1];
  }

  async start() {
    const nv = this.nv = new niivue.Niivue({
      interactive: false, dragAndDropEnabled: false, isResizeCanvas: false, isRadiologicalConvention: true, sagittalNoseLeft: true,
      isOrientationTextVisible: false, isColorbar: false, crosshairWidth: 0, show3Dcrosshair: false, multiplanarShowRender: 0,
      backColor: [0, 0, 0, 1], loadingText: "", logLevel: "silent",
    });
    nv.calculateWidthHeight = (type, scale, width, height) => [width, height]; // a tile is filled, not fitted
    nv.screenFieldOfViewExtendedVox = type => this.#fieldOfView(type);
    await nv.attachToCanvas(this.canvas, false);
    const { gl } = nv, names = gl.getExtension("WEBGL_debug_renderer_info");
    this.software = SOFTWARE.test(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    this.canvas.addEventListener("webglcontextlost", event => {
      event.preventDefault();
      this.onLost?.();
    });
  }

  /** Bounds in NiiVue's millimetres along the grid's axes, of the tile that shows this slice type. */
  #fieldOfView(type) {
    const { extentsMinOrtho: low, extentsMaxOrtho: high, dimsRAS } = this.nv.volumes[0];
    const tile = this.tiles.find(tile => SLICE[tile.axis] === type);
    const axes = [[0, 1, 2], [0, 2, 1], [1, 2, 0]][type], mnMM = new Float32Array(3), mxMM = new Float32Array(3);
    const mm = (axis, voxel) => low[axis] + (voxel + 0.5) * (high[axis] - low[axis]) / dimsRAS[axis + 1];
    axes.forEach((axis, i) => { mnMM[i] = low[axis]; mxMM[i] = high[axis]; });
    if (tile) {
      const halfU = tile.width / 2 / tile.du, halfV = tile.height / 2 / tile.dv;
      [mnMM[0], mxMM[0]] = [mm(tile.u, tile.cu - halfU), mm(tile.u, tile.cu + halfU)];
      [mnMM[1], mxMM[1]] = [mm(tile.v, tile.cv - halfV), mm(tile.v, tile.cv + halfV)];
    }
    const rotation = new Float32Array(16);
    rotation[0] = rotation[5] = rotation[10] = rotation[15] = 1;
    return { mnMM, mxMM, rotation, fovMM: mxMM.map((value, i) => value - mnMM[i]) };
  }

  async #show(buffer, name, window) {
    const found = await niivue.NVImage.loadFromUrl({
      url: name, name, buffer, colormap: "gray", cal_min: window[0], cal_max: window[1], trustCalMinMax: true,
    });
    this.clear();
    this.window = [...window];
    this.nv.addVolume(found);
    return found;
  }

  /** Whether slices from the server suit this image better: it exceeds the graphics card, or there is none. */
  unsuited({ shape }) {
    const { max3D } = this.nv.uiData;
    return shape.some(n => n > max3D) || (this.software && shape.reduce((a, b) => a * b) > SOFTWARE_VOXELS);
  }

  /** Loads an image of the server. */
  async load(image, window, onBytes, signal) {
    const response = await volume(image.image, signal), total = Number(response.headers.get("Content-Length")) || 0;
    const parts = [], reader = response.body.getReader();
    for (let received = 0; ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      onBytes(received += value.length, total);
    }
    const buffer = await new Blob(parts).arrayBuffer();
    signal?.throwIfAborted();
    await this.#show(buffer, "volume.nii.gz", window);
    signal?.throwIfAborted();
    const shown = this.nv.volumes[0].dimsRAS.slice(1, 4);
    if (image.shape.some((n, i) => n !== shown[i]))
      throw new Error(`volume.nii.gz: expected shape ${image.shape} as the server says, got ${shown}; open the image again.`);
  }

  /** Shows a NIfTI file before the server has it. Returns what the page needs to know of it. */
  async preview(file, window) {
    if (this.software && file.size > SOFTWARE_BYTES) return null;
    const { dimsRAS, matRAS, pixDimsRAS } = await this.#show(await file.arrayBuffer(), file.name, window);
    return {
      image: null, name: file.name, shape: [...dimsRAS.slice(1, 4)], spacing_mm: [...pixDimsRAS.slice(1, 4)],
      affine: [0, 1, 2, 3].map(row => [...matRAS.slice(4 * row, 4 * row + 4)]), window_hu: window, lesions: [], warnings: [],
    };
  }

  clear() {
    while (this.nv.volumes.length) this.nv.removeVolume(this.nv.volumes[0]);
  }

  resize(width, height, ratio) {
    this.ratio = ratio;
    this.size = [width, height];
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
  }

  draw(tiles, image, window) {
    const [background] = this.nv.volumes;
    if (!background) return;
    this.tiles = tiles;
    if (window[0] !== this.window[0] || window[1] !== this.window[1]) {
      this.window = [...window];
      [background.cal_min, background.cal_max] = window;
      this.nv.updateGLVolume();
    }
    const [width, height] = this.size, fraction = (part, whole) => Math.min(1, part / whole);
    this.nv.setCustomLayout(tiles.map(tile => ({
      sliceType: SLICE[tile.axis],
      position: [tile.left / width, tile.top / height,
        Math.min(fraction(tile.width, width), 1 - tile.left / width) - 1e-9, Math.min(fraction(tile.height, height), 1 - tile.top / height) - 1e-9],
    })));
  }

  /** Sets the voxel where the planes cross, which NiiVue keeps as fractions of the grid. */
  cross(voxel, shape) {
    voxel.forEach((value, i) => { this.nv.scene.crosshairPos[i] = (value + 0.5) / shape[i]; });
  }

  value(x, y, z) {
    const [background] = this.nv.volumes;
    return background ? background.getValue(x, y, z) : null;
  }

  dispose() {
    this.onLost = null;
    this.clear();
    this.nv.cleanup();
    this.nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
