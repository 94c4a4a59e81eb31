"""One torso with a lesion in it, rendered as a CT would see it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segnet.dataset.phantom.body import Body, Point, ellipsoid
from segnet.dataset.phantom.canvas import F32, Array, Box, Canvas, cover, value_noise

PAD_SHARE = 0.3  # of the cases have a constant border
RIB_PITCH_MM = 31.0


class Scene:
    """Draws one torso, chooses the lesion's place in it, and renders the window around it."""

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float],
        sites: tuple[str, ...],
    ) -> None:
        self.rng = rng
        self.body = Body.draw(rng)
        self.site = str(rng.choice(sites))
        room_mm = 0.55 * min(n * s for n, s in zip(shape, spacing_mm, strict=True))
        largest = max(4 * max(spacing_mm), min(42.0, room_mm))  # the outline adds up to a quarter
        smallest = min(max(8.0, 3 * max(spacing_mm)), largest)
        self.diameter_mm = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
        self.middle = self._place()
        self.canvas = Canvas(self.middle, shape, spacing_mm)
        self.lung: Array = np.zeros(self.canvas.shape_zyx, F32)
        self.inside: Array = np.zeros(self.canvas.shape_zyx, F32)
        self.host: Array | None = None  # share of each voxel open to the lesion; None: all of the inside

    def render(self) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        self._wall()
        self._cavity()
        if self.site == "lung":
            self.host = self.lung
        self._mediastinum()
        self._abdomen()
        self._spine()
        mask = self._lesion()
        self._scan()
        image = np.rint(np.clip(self.canvas.hu, -1024, 3071)).astype(np.int16)
        self._pad(image, mask)
        return image.transpose(2, 1, 0), mask.transpose(2, 1, 0)

    def _place(self) -> Point:
        """The lesion's place, in mm."""
        rng, body = self.rng, self.body
        u = rng.uniform
        r = self.diameter_mm / 2
        for _ in range(500):
            if self.site == "lung":
                p = (u(30, 125) * rng.choice((-1, 1)), u(-90, 90), u(-25, 115))
                depth = float(body.lung(*p))
            elif self.site == "liver":
                p = (u(-40, 140), u(-70, 80), u(-120, -8))
                depth = float(body.liver(*p))
            elif self.site == "spleen":
                p = (u(-135, -70), u(-80, 10), u(-100, -10))
                depth = float(body.spleen(*p))
            elif self.site == "kidney":
                side = int(rng.choice((-1, 1)))
                p = (side * 62 + u(-30, 30), body.spine_y + 24 + u(-28, 28), u(-165, -75))
                depth = abs(float(body.kidney(side, *p))) - 6
            elif self.site == "bone":
                p = (u(-12, 12), body.spine_y + u(-8, 8), u(-150, 120))
                depth = -10.0
            else:
                p = (u(-35, 35), body.spine_y + u(34, 50), u(-160, -90))
                depth = float(body.cavity(p[0], p[1]))
            if depth < -min(3 + 0.35 * r, 9) or (self.site == "kidney" and depth < 0):
                break
        return (float(p[0]), float(p[1]), float(p[2]))

    def _wall(self) -> None:
        """Table, skin, fat, muscles and ribs, and fat inside."""
        rng, body, canvas = self.rng, self.body, self.canvas
        x, y, _ = canvas.xyz(canvas.whole())
        top = -body.half_y - 9 + 0.0006 * x**2
        shells = cover(np.abs(y - top) - 1.2, 1.0) + cover(np.abs(y - top + 22) - 1.6, 1.0)
        canvas.hu += 780 * shells + 45 * cover(np.abs(y - top + 11) - 10, 1.0)

        cx, cy, cz = canvas.coarse
        sway = 4 * np.sin(cz / 70 + rng.uniform(0, 6)) + 1.2 * canvas.noise(rng, 18)
        skin = body.skin(cx, cy) + sway
        muscle = skin + body.fat_here(cx, cy) + 1.0 * canvas.noise(rng, 12)
        muscle_hu = 56 + 5 * canvas.noise(rng, 4)
        self.cavity = body.cavity(cx, cy) + 0.7 * sway
        folds = np.clip(canvas.noise(rng, 20), -2, 2)
        planes = np.abs(self.cavity - body.wall * (0.6 + 0.15 * folds)) - 0.4 - 0.4 * folds
        first_rib = float(rng.uniform(0, RIB_PITCH_MM))
        for box in canvas.slabs(canvas.whole()):
            surface = canvas.fine(skin, box)
            canvas.paint(box, cover(surface, 1.0), F32(25))
            canvas.paint(box, cover(surface + F32(2), 1.0), F32(-108))
            canvas.paint(box, cover(canvas.fine(muscle, box), 1.0), canvas.fine(muscle_hu, box))
            canvas.paint(box, F32(0.7) * cover(canvas.fine(planes, box), 2.0), F32(-75))
            depth = canvas.fine(self.cavity, box)
            self._ribs(box, depth, first_rib)
            self.inside[box] = cover(depth, 1.0)
            canvas.paint(box, self.inside[box], F32(-98))
        front = body.half_y - body.fat - 0.55 * body.wall
        sternum = np.maximum(ellipsoid((cx, cy, 0 * cz), (0, front, 0), (19, 5.5, 99)), 12 - cz)
        canvas.fill(sternum, 520.0)
        canvas.fill(sternum + 1.8, 170.0)

    def _ribs(self, box: Box, depth: Array, first_mm: float) -> None:
        """Slanting rings in the wall, 6 mm outside the cavity, open at the spine."""
        body, canvas = self.body, self.canvas
        near = np.abs(depth - F32(6)) < 5.5
        iz, iy, ix = np.nonzero(near)
        x, y, z = canvas.xyz(box)
        xs, ys, zs, across = np.abs(x[0, 0, ix]), y[0, iy, 0], z[iz, 0, 0], depth[near] - F32(6)
        phase = zs + F32(0.55) * ys + F32(0.1) * xs + F32(first_mm)
        along = phase - F32(RIB_PITCH_MM) * np.rint(phase / F32(RIB_PITCH_MM))
        rib = (np.sqrt((across / F32(4.2)) ** 2 + (along / F32(6.5)) ** 2) - 1) * F32(4.2)
        rib[(zs + 40 < 1.3 * ys) | (xs < 24)] = 9
        bony = cover((ys - F32(0.8 * body.half_y) + F32(0.35) * xs) / 6, 1.0)  # cartilage in front
        view = canvas.hu[box]
        values = view[near]
        values += cover(rib, 1.0) * (110 + 560 * bony - values)
        values += bony * cover(rib + F32(1.6), 1.0) * (190 - values)
        view[near] = values

    def _cavity(self) -> None:
        """Lungs and their vessels."""
        rng, body, canvas = self.rng, self.body, self.canvas
        cx, cy, cz = canvas.coarse
        distance = body.lung(cx, cy, cz) + 0.7 * np.maximum(self.cavity - body.cavity(cx, cy), 0)
        distance = distance + 0.7 * canvas.noise(rng, 9)
        distance = np.maximum(distance, 3.5 - body.mediastinum(cx, cy, cz) + 4 * canvas.noise(rng, 22))
        if not canvas.fill(distance, -865 - 0.35 * cy, share=self.lung):
            return
        for side in (-1, 1):
            hilum = (side * 34.0, -4.0, 48.0)
            for aim in (
                (0.55, 0.35, 0.75),
                (0.7, -0.45, 0.55),
                (0.85, 0.55, -0.05),
                (0.75, -0.1, -0.65),
                (0.45, -0.7, -0.55),
                (0.4, 0.2, -0.9),
                (0.8, 0.6, 0.3),
                (0.6, -0.8, 0.0),
            ):
                for start, end, radii in self._tree(hilum, (side * aim[0], aim[1], aim[2]), 4.4, 25.0, 8):
                    canvas.tube(start, end, radii, 35.0 + 60 * body.contrast, self.lung)

    def _tree(
        self, start: Point, aim: Point, radius: float, length: float, depth: int
    ) -> Iterator[tuple[Point, Point, tuple[float, float]]]:
        """Segments of a branching vessel, thinner and shorter from fork to fork, where they may be seen."""
        rng = self.rng
        ahead = 1.25 * length * (1 - 0.84**depth) / 0.16
        if any(
            not axis[0] - ahead < c < axis[-1] + ahead for axis, c in zip(self.canvas.axes, start[::-1], strict=True)
        ):
            return
        direction = np.asarray(aim) + rng.normal(0, 0.16, 3)
        direction /= math.sqrt(direction @ direction)
        stretch = length * rng.uniform(0.7, 1.25)
        tip = np.asarray(start) + direction * stretch
        end = (float(tip[0]), float(tip[1]), float(tip[2]))
        yield start, end, (radius, 0.85 * radius)
        if depth <= 1 or radius < 0.5:
            return
        side = rng.normal(0, 1, 3)
        side -= side @ direction * direction
        side /= max(math.sqrt(side @ side), 1e-6)
        for sign, share in ((1.0, rng.uniform(0.78, 0.9)), (-1.0, rng.uniform(0.5, 0.78))):
            bend = direction + sign * rng.uniform(0.3, 0.75) * side
            yield from self._tree(
                end, (float(bend[0]), float(bend[1]), float(bend[2])), radius * share, length * 0.84, depth - 1
            )

    def _mediastinum(self) -> None:
        """Heart, great vessels and airways."""
        rng, body, canvas = self.rng, self.body, self.canvas
        cx, cy, cz = canvas.coarse
        blood = 42 + 150 * body.contrast
        in_chest = np.maximum(self.cavity + 3, 0.8 * (body.dome_height(cx, cy) - cz) + 1)
        heart = np.maximum(ellipsoid((cx, cy, cz), body.heart, (50, 40, 46)), in_chest) + canvas.noise(rng, 8)
        canvas.fill(heart, 58 + 45 * body.contrast)
        x0, y0, z0 = body.heart
        for dx, dy, dz, size in ((22, -14, 8, 19), (-16, 8, -8, 20), (14, 16, -2, 17), (-8, -20, 14, 16)):
            chamber = ellipsoid((cx, cy, cz), (x0 + dx, y0 + dy, z0 + dz), (size, 0.8 * size, 1.2 * size))
            canvas.fill(np.maximum(chamber, heart + 5), blood, 3.0)
        back = body.spine_y + 36
        arch = [
            (-17.0, back, 88.0),
            (-12.0, back + 14, 101.0),
            (4.0, back + 40, 103.0),
            (14.0, back + 56, 88.0),
            (10.0, back + 52, 48.0),
        ]
        heights = [float(h) for h in range(-290, 89, 27)]
        aorta = [(-19.0 + 2 * math.sin(h / 40), back + 3 * math.sin(h / 55), h) for h in heights]
        for start, end in (*pairwise(aorta), *pairwise(arch)):
            canvas.tube(start, end, (11.0, 11.0), blood)
        vein = 42 + 95 * body.contrast
        canvas.tube((22.0, back + 48, 45.0), (24.0, back + 40, 125.0), (8.5, 8.0), vein)
        for side in (-1, 1):
            canvas.tube((2.0, back + 36, 62.0), (side * 36.0, -6.0, 50.0), (10.0, 7.5), blood)
            canvas.tube((side * 12.0, back + 8, 122.0), (side * 26.0, back + 30, 215.0), (4.5, 4.0), blood)
        carina = (4.0, back + 20, 68.0)
        airways = (((2.0, back + 26, 215.0), 9.0), ((40.0, -8.0, 52.0), 6.5), ((-42.0, -8.0, 50.0), 6.0))
        for end, radius in airways:
            canvas.tube(carina, end, (radius + 1.6, radius + 1.2), 45.0)
            canvas.tube(carina, end, (radius, radius - 0.4), -985.0)
        canvas.tube((-6.0, back + 12, -10.0), (-2.0, back + 9, 200.0), (7.5, 6.5), 48.0)

    def _abdomen(self) -> None:
        """Liver, spleen, stomach, kidneys, bowel, muscles and vessels below the diaphragm."""
        rng, body, canvas = self.rng, self.body, self.canvas
        cx, cy, cz = canvas.coarse
        c = body.contrast
        bound = np.maximum(self.cavity + 3, 0.8 * (cz - body.dome_height(cx, cy)) + 2.5)
        back = body.spine_y
        self._mesentery()
        for side in (-1, 1):
            psoas = np.hypot(cx - side * (36 - 0.05 * cz), 1.15 * (cy - back - 2)) - (9 - 0.11 * (cz + 80))
            canvas.fill(np.maximum(psoas, cz + 75), 57.0)
            crus = np.maximum(np.abs(bound + 3) - 1.4, np.hypot(cx - side * 12, cy - back - 18) - 26)
            canvas.fill(crus, 55.0)
        wall = self._blob(bound, (-62, 28, -62), (44, 46, 48), 9.0)
        canvas.fill(wall, 52 + 30 * c)
        canvas.fill(wall + 4.5, 18.0, 2.0)
        canvas.fill(np.maximum(wall + 4.5, 52 - cy), -960.0, 1.5)
        for _ in range(34):
            self._bowel(bound)
        self._pancreas(bound)
        for side in (-1, 1):
            kidney = np.maximum(body.kidney(side, cx, cy, cz) + 1.0 * canvas.noise(rng, 7), bound)
            canvas.fill(kidney, 38 + 145 * c)
            canvas.fill(kidney + 6.5 + 2.0 * canvas.noise(rng, 5), 34 + 95 * c, 3.0)
            sinus = ellipsoid((cx, cy, cz), (side * 54.0, back + 27, -118.0), (11, 11, 24))
            canvas.fill(sinus + 2.5 * canvas.noise(rng, 5), -85.0, 2.5)
        spleen = np.maximum(body.spleen(cx, cy, cz) + 1.2 * canvas.noise(rng, 9), bound)
        self._organ("spleen", spleen, 48 + 72 * c, None)
        liver = np.maximum(body.liver(cx, cy, cz) + 1.5 * canvas.noise(rng, 14), bound)
        self._organ("liver", liver, 56 + 52 * c, ((42.0, 8.0, -72.0), 6.0))
        canvas.fill(np.maximum(self._blob(bound, (48, 42, -100), (15, 17, 26), 8.0), bound), 8.0, 1.5)
        canvas.tube((22.0, back + 36, -285.0), (22.0, back + 40, -12.0), (11.0, 11.5), 42 + 95 * c)

    def _blob(self, bound: Any, centre: Point, semi_axes: Point, length_mm: float) -> Any:
        bumps = 0.08 * min(semi_axes) * self.canvas.noise(self.rng, length_mm)
        return np.maximum(ellipsoid(self.canvas.coarse, centre, semi_axes) + bumps, bound)

    def _organ(self, name: str, distance: Any, hu: float, root: tuple[Point, float] | None) -> None:
        """A parenchymal organ with its vessels; becomes the lesion's host if the lesion is to lie in it."""
        canvas, body = self.canvas, self.body
        share = np.zeros(canvas.shape_zyx, F32)
        if not canvas.fill(distance, hu + 3.0 * canvas.noise(self.rng, 12), share=share):
            return
        if root is not None:
            start, radius = root
            for aim in (
                (0.8, 0.1, 0.3),
                (0.6, -0.55, 0.2),
                (0.6, 0.3, -0.55),
                (-0.8, 0.6, 0.3),
                (0.5, 0.1, 0.9),
                (0.7, -0.4, -0.5),
            ):
                for a, b, radii in self._tree(start, aim, radius, 30.0, 6):
                    canvas.tube(a, b, radii, hu + 15 + 45 * body.contrast, share)
        if self.site == name:
            self.host = share

    def _mesentery(self) -> None:
        """Branching vessels in the fat of the belly."""
        rng, body = self.rng, self.body
        for _ in range(14):
            start = (float(rng.uniform(-15, 15)), body.spine_y + 52, float(rng.uniform(-250, -85)))
            aim = (float(rng.uniform(-1.5, 1.5)), 0.8, float(rng.uniform(-0.9, 0.3)))
            for a, b, radii in self._tree(start, aim, 3.6, 30.0, 6):
                self.canvas.tube(a, b, radii, 45 + 95 * body.contrast, self.inside)

    def _bowel(self, bound: Any) -> None:
        rng, canvas = self.rng, self.canvas
        size = rng.uniform(11, 22)
        centre = (
            float(rng.uniform(-110, 110)),
            float(rng.uniform(-30, self.body.half_y - 45)),
            float(rng.uniform(-290, -100)),
        )
        stretch = rng.permutation([1.7, 1.0, 0.9])
        axes = (float(size * stretch[0]), float(size * stretch[1]), float(size * stretch[2]))
        reach = max(axes) + 6
        if (
            canvas.box(
                (centre[0] - reach, centre[1] - reach, centre[2] - reach),
                (centre[0] + reach, centre[1] + reach, centre[2] + reach),
            )
            is None
        ):
            return
        loop = self._blob(bound, centre, axes, 7.0)
        canvas.fill(loop, 40 + 45 * self.body.contrast)
        content = str(rng.choice(["fluid", "gas", "stool", "oral contrast"], p=[0.45, 0.2, 0.2, 0.15]))
        lumen = loop + 3.0
        if content == "stool":
            canvas.fill(lumen, -60 + 90 * canvas.noise(rng, 3.5), 1.5)
        else:
            canvas.fill(lumen, 230.0 if content == "oral contrast" else 16.0, 1.5)
        if content == "gas":
            canvas.fill(np.maximum(lumen, centre[1] - 3 - canvas.coarse[1]), -930.0, 1.5)

    def _pancreas(self, bound: Any) -> None:
        rng, body, canvas = self.rng, self.body, self.canvas
        cx, cy, cz = canvas.coarse
        along = np.clip((cx + 75) / 110, 0, 1)
        middle_y = body.spine_y + 62 - 26 * np.maximum(0.45 - along, 0) - 8 * np.maximum(along - 0.75, 0)
        middle_z = -88 - 22 * along
        away = np.sqrt((cy - middle_y) ** 2 + (cz - middle_z) ** 2 + np.maximum(np.abs(cx + 20) - 55, 0) ** 2)
        gland = np.maximum(away - 10 - 4 * along + 1.6 * canvas.noise(rng, 4), bound)
        canvas.fill(gland, 44 + 50 * body.contrast, 2.0)

    def _spine(self) -> None:
        """Vertebrae with discs, canal and processes."""
        rng, body, canvas = self.rng, self.body, self.canvas
        cx, cy, cz = canvas.coarse
        pitch = 33.0
        phase = cz + rng.uniform(0, pitch)
        along = np.abs(phase - pitch * np.rint(phase / pitch))  # 0 mid-vertebra, pitch/2 mid-disc
        waist = 1.6 * np.cos(2 * np.pi * along / pitch)
        v = cy - body.spine_y
        column = np.hypot(cx / 1.25, v) - (17.5 - waist)
        column = np.maximum(column, -(v + 26)) + 0.5 * canvas.noise(rng, 6)
        canvas.fill(column + 1, 75.0)
        bone = np.maximum(column, along - 12.5)
        canvas.fill(bone, 430.0)
        canvas.fill(bone + 2.0, 165 + 45 * canvas.noise(rng, 4), 1.5)
        arch = np.maximum(np.abs(np.hypot(cx / 1.15, v + 27) - 12.5) - 3.2, along - 12)
        transverse = np.maximum(np.hypot((v + 24 + 0.3 * np.abs(cx)) / 1.0, along - 2) - 5.5, np.abs(cx) - 36)
        transverse = np.maximum(transverse, 12 - np.abs(cx))
        spinous = np.maximum(np.hypot(cx * 1.3, 0.7 * (along - 4)) - 4.2, np.abs(v + 52) - 14)
        posterior = np.minimum(np.minimum(arch, transverse), spinous)
        canvas.fill(posterior, 480.0)
        canvas.fill(posterior + 1.7, 210.0)
        canvas.fill(np.hypot(cx / 1.1, v + 27) - 9.0, 22.0)
        canvas.fill(np.hypot(cx, v + 27) - 5.0, 38.0, 2.0)

    def _lesion(self) -> NDArray[np.uint8]:
        """Paint the lesion and return its mask (Z, Y, X)."""
        rng, canvas = self.rng, self.canvas
        radius = self.diameter_mm / 2
        semi_axes = radius * np.clip(rng.uniform(0.62, 1.0, 3), 0, 1)
        semi_axes[int(rng.integers(3))] = radius
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        shift = turn.T @ (semi_axes * rng.uniform(-0.3, 0.3, 3))
        reach = 1.5 * radius + 4
        x0, y0, z0 = self.middle
        box = canvas.box((x0 - reach, y0 - reach, z0 - reach), (x0 + reach, y0 + reach, z0 + reach))
        assert box is not None
        at = [a - F32(c) for a, c in zip(canvas.xyz(box), self.middle, strict=True)]
        local = [sum(at[j] * F32(turn[i, j]) for j in range(3)) - F32((turn @ shift)[i]) for i in range(3)]
        r = np.sqrt(sum((q / F32(s)) ** 2 for q, s in zip(local, semi_axes, strict=True)))
        rough = 0.0 if self.site in ("node", "spleen") else rng.uniform(0.05, 0.2)
        bumps = F32(0.06 + 0.5 * rough) * self._bumps(box, 0.75 * radius) + F32(0.6 * rough) * self._bumps(
            box, max(0.3 * radius, 2.0)
        )
        from_middle = np.sqrt(sum(a**2 for a in at))
        distance = (r + bumps * np.minimum(r, 1) - 1) * F32(semi_axes.min())
        host = self.inside if self.host is None else self.host
        share = np.maximum(host[box], cover(from_middle - F32(0.45 * radius), 1.0))
        soft = 1.0
        styles = (
            ("solid", "solid", "solid", "ground glass", "part solid")
            if self.site == "lung"
            else ("solid", "solid", "necrotic")
        )
        style = str(rng.choice(styles))
        if style in ("ground glass", "part solid"):
            soft = 2.5
        elif self.site in ("liver", "spleen", "kidney"):
            soft = 2.0
        middle = tuple(int(np.argmin(np.abs(a))) for a in (at[2], at[1], at[0]))
        solid = (distance < 0) & (share > 0.5)
        solid[middle] = True
        parts, _ = ndimage.label(solid)
        mask_box = parts == parts[middle]
        # Crumbs that the outline cut off are no lesion.
        alpha = cover(distance, soft) * share * ~(solid & ~mask_box)
        alpha[middle] = 1
        hu = self._lesion_hu(style, distance, radius, box)
        if style == "solid" and self.site == "lung" and rng.random() < 0.5:
            self._spicules(radius)
        canvas.paint(box, alpha, hu)
        mask = np.zeros(canvas.shape_zyx, np.uint8)
        mask[box] = mask_box
        return mask

    def _bumps(self, box: Box, length_mm: float) -> Array:
        """Smooth noise on the voxels of a box."""
        shape = tuple(cut.stop - cut.start for cut in box)
        return value_noise(self.rng, shape, self.canvas.spacing_zyx_mm, length_mm)

    def _lesion_hu(self, style: str, distance: Array, radius: float, box: Box) -> Array:
        rng, c = self.rng, self.body.contrast
        texture = self._bumps(box, max(0.35 * radius, 2.5))
        core = cover(distance + F32(0.35 * radius) + F32(0.1 * radius) * texture, 0.25 * radius)
        if self.site == "lung":
            solid = rng.uniform(15, 45) + 30 * c
            if style == "solid":
                return F32(solid) + 12 * texture
            glass = F32(rng.uniform(-680, -480)) + 60 * texture
            return glass if style == "ground glass" else glass + core * (F32(solid) - glass)
        host = {"liver": 56 + 52 * c, "spleen": 48 + 72 * c, "kidney": 38 + 115 * c}.get(self.site)
        if host is None:  # in fat or bone: like muscle and unenhanced vessels
            body = F32(rng.uniform(40, 62) + 35 * c) + 8 * texture
        else:
            body = F32(host - rng.uniform(22, 55) * (0.6 + 0.6 * c)) + 7 * texture
        if style == "necrotic":
            rim = body + F32(rng.uniform(5, 25))
            return rim + core * (F32(rng.uniform(12, 28)) - rim)
        return body

    def _spicules(self, radius: float) -> None:
        for _ in range(int(self.rng.integers(5, 12))):
            way = self.rng.normal(size=3)
            way /= np.linalg.norm(way)
            x, y, z = (float(m + d * radius * 0.6) for m, d in zip(self.middle, way, strict=True))
            far = radius * 0.6 + self.rng.uniform(3, 6 + 0.5 * radius)
            a, b, c = (float(m + d * far) for m, d in zip(self.middle, way, strict=True))
            self.canvas.tube((x, y, z), (a, b, c), (1.1, 0.3), -60.0, self.lung)

    def _scan(self) -> None:
        """Texture of tissue, noise and the blur of the scanner."""
        rng, canvas = self.rng, self.canvas
        texture = canvas.noise(rng, 3.2)
        for box in canvas.slabs(canvas.whole()):
            canvas.hu[box] += canvas.fine(texture, box) * (F32(4) + F32(26) * self.lung[box])
        noise = rng.standard_normal(canvas.shape_zyx, F32)
        kernel = rng.uniform(0.1, 0.25)  # from a sharp to a soft reconstruction
        for axis in (2, 1):
            _smooth(noise, axis, kernel)
        sigma_hu = math.exp(rng.uniform(math.log(9), math.log(26)))
        noise *= F32(sigma_hu / float(noise[:: max(1, len(noise) // 8)].std()))
        canvas.hu += noise
        for axis, weight in ((2, 0.16), (1, 0.16), (0, 0.08)):
            _smooth(canvas.hu, axis, weight)

    def _pad(self, image: NDArray[np.int16], mask: NDArray[np.uint8]) -> None:
        """A constant border where the window leaves the scan, clear of the lesion."""
        rng = self.rng
        if rng.random() >= PAD_SHARE:
            return
        kept: list[slice] = [slice(0, n) for n in mask.shape]
        for axis in rng.permutation(3)[: int(rng.integers(1, 3))]:
            n = mask.shape[axis]
            used = np.flatnonzero(mask.any(axis=tuple(j for j in range(3) if j != axis)))
            width = int(rng.uniform(0.04, 0.28) * n)
            if rng.random() < 0.5:
                kept[axis] = slice(max(0, min(width, int(used[0]) - 2)), n)
            else:
                kept[axis] = slice(0, min(n, max(n - width, int(used[-1]) + 3)))
        inside = image[tuple(kept)].copy()
        image[:] = int(inside.min()) - 1
        image[tuple(kept)] = inside


def _smooth(array: Array, axis: int, weight: float) -> None:
    """Blur in place by (weight, 1 - 2 weight, weight) along an axis; the ends are repeated."""
    pieces = [array[i : i + 8] for i in range(0, len(array), 8)] if axis else [array]
    for piece in pieces:
        view = np.moveaxis(piece, axis, 0)
        step = view[1:] - view[:-1]
        step *= F32(weight)
        view[:-1] += step
        view[1:] -= step
