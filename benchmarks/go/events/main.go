// Reads events from a socket with containerd's own client and says how many there were a second and
// what CPU each cost, in microseconds: events SOCKET COUNT
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd"
	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl"
)

func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func main() {
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	client, err := containerd.New(os.Args[1])
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before, began := cpu(), time.Now()
	events, errors := client.EventService().Subscribe(ctx)
	for left := count; left > 0; left-- {
		select {
		case envelope := <-events:
			event, err := typeurl.UnmarshalAny(envelope.Event)
			if err != nil {
				panic(err)
			}
			if exit, ok := event.(*apievents.TaskExit); ok && exit.ExitStatus != 137 {
				panic("another event")
			}
		case err := <-errors:
			panic(err)
		}
	}
	wall, used := time.Since(began).Seconds(), (cpu() - before).Seconds()
	fmt.Printf("%f %f\n", float64(count)/wall, used/float64(count)*1e6)
}
