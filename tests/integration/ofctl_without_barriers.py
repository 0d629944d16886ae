# SPDX-License-Identifier: MIT
"""The REST application as Ryu has it: without barriers, and without the transactions' numbers."""

from ofctl_rest import OfctlRest


class WithoutBarriers(OfctlRest):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.routes = [route for route in self.routes if "barrier" not in route[1].pattern]

    def modify_flow(self, body, command):
        super().modify_flow(body, command)
        return None, None
